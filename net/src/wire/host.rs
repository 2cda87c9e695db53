// SPDX-License-Identifier: Apache-2.0
//! The addresses of a host: those of the calling thread's namespace that others can send to.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage::GetAddress;
use netlink_packet_route::address::AddressMessage;

use super::scan::address;
use crate::netlink::{NetlinkError, Route};

/// All of them, without those that only the host itself or one of its links knows.
pub fn addresses() -> Result<Vec<IpAddr>, NetlinkError> {
    let found = Route::open()?.dump(GetAddress(AddressMessage::default()))?;
    let all = found
        .iter()
        .filter_map(address)
        .map(|(_, address)| address.ip);
    Ok(all.filter(|ip| !is_near(*ip)).collect())
}

fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lab::{self, Lab};

    #[test]
    fn addresses_that_others_can_send_to_are_found() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let work = || {
            let mut lab = Lab::open();
            lab.veth("eth0", "far0", 1500);
            lab.address("eth0", "10.7.0.1", 24);
            lab.address("eth0", "169.254.7.1", 16);
            lab.address("eth0", "fd07::1", 64);
            addresses().unwrap()
        };
        let found = namespace.run(work).unwrap();
        let expect = ["10.7.0.1", "fd07::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(found, expect);
    }
}
