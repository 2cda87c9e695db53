// SPDX-License-Identifier: Apache-2.0
//! Bringing up what packets go through: a sandbox's taps, and the loopback of a namespace of its own.
//!
//! The host speaks no protocol on a tap, it only forwards: no address is made for it, so that nothing of
//! the host is on the guest's link.

use std::path::Path;

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use thiserror::Error;

use crate::netlink::{NetlinkError, Request, Route};

/// Exists where the kernel speaks IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// Name of the tap behind a network device of the machine. A sandbox has a namespace for itself, so that
/// the slot is enough; of two that are given the same one the second finds the name taken.
pub fn tap_name(slot: u8) -> String {
    format!("cube{slot}")
}

/// Whether a sandbox lives in the namespace of the socket: there is a tap for the first slot.
pub fn is_inhabited(netlink: &mut Route) -> Result<bool, TapError> {
    let name = tap_name(0);
    let request = Request {
        message: RouteNetlinkMessage::GetLink(link(&name)),
        flags: 0,
    };
    match netlink.exchange([request]) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(Errno::NODEV.raw_os_error()) => Ok(false),
        Err(source) => Err(TapError::Look { name, source }),
    }
}

/// Gives a tap its MTU, keeps the host's own protocols off it, brings it up and returns its number. One
/// exchange with the kernel.
pub fn raise(netlink: &mut Route, name: &str, mtu: u32) -> Result<u32, TapError> {
    let failed = |source| TapError::Raise {
        name: name.into(),
        mtu,
        source,
    };
    let mut first = link(name);
    first.attributes.push(LinkAttribute::Mtu(mtu));
    if Path::new(IPV6).exists() {
        let silent = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let silent = AfSpecUnspec::Inet6(vec![silent]);
        first
            .attributes
            .push(LinkAttribute::AfSpecUnspec(vec![silent]));
    }
    // Apart from the first: within one request a link comes up before it is silent.
    let requests = [
        RouteNetlinkMessage::SetLink(first),
        RouteNetlinkMessage::SetLink(up(name)),
        RouteNetlinkMessage::GetLink(link(name)),
    ];
    let requests = requests.map(|message| Request { message, flags: 0 });
    let answers = netlink.exchange(requests).map_err(failed)?;
    answers
        .iter()
        .find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        })
        .ok_or_else(|| TapError::Silent { name: name.into() })
}

/// Brings `lo` up, which many plug-ins leave to others.
pub fn raise_loopback(netlink: &mut Route) -> Result<(), TapError> {
    let request = Request {
        message: RouteNetlinkMessage::SetLink(up("lo")),
        flags: 0,
    };
    match netlink.exchange([request]) {
        Ok(_) => Ok(()),
        Err(source) => Err(TapError::Loopback { source }),
    }
}

fn link(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    message
}

fn up(name: &str) -> LinkMessage {
    let mut message = link(name);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

/// Why a link does not come up.
#[derive(Debug, Error)]
pub enum TapError {
    /// A tap.
    #[error("the tap {name} could not be brought up with an MTU of {mtu}")]
    Raise {
        /// Its name.
        name: String,
        /// Its longest packet.
        mtu: u32,
        /// Why.
        source: NetlinkError,
    },
    /// The kernel would not say.
    #[error("the tap {name} could not be looked for")]
    Look {
        /// Its name.
        name: String,
        /// Why.
        source: NetlinkError,
    },
    /// The kernel did not tell a tap's number.
    #[error("the kernel does not know the tap {name}")]
    Silent {
        /// Its name.
        name: String,
    },
    /// The loopback interface.
    #[error("the interface lo could not be brought up")]
    Loopback {
        /// Why.
        source: NetlinkError,
    },
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::wire::lab::{self, Lab};
    use crate::wire::scan;

    #[test]
    fn a_raised_link_has_its_mtu_and_no_address() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let work = || {
            let mut lab = Lab::open();
            lab.veth("cube0", "far", 1500);
            lab.up("cube0", false);
            let index = raise(&mut lab.0, "cube0", 1280).unwrap();
            assert_eq!(index, lab.index("cube0"));
            // The other end shows what there would be without, once the kernel has seen that both are up.
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let found = scan(&mut lab.0).unwrap().interfaces;
                let named = |name: &str| found.iter().find(|found| found.name == name).unwrap();
                if named("far").addresses.len() == 1 {
                    return named("cube0").clone();
                }
                assert!(Instant::now() < deadline, "{found:?}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let tap = namespace.run(work).unwrap();
        assert_eq!((tap.mtu, &tap.addresses[..]), (1280, &[][..]));
    }

    #[test]
    fn a_tap_that_is_not_there_is_named() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let raised = namespace.run(|| raise(&mut Route::open().unwrap(), "cube3", 1500));
        let error = raised.unwrap().unwrap_err().to_string();
        assert!(error.contains("cube3"), "{error}");
    }

    #[test]
    fn a_namespace_is_inhabited_while_the_first_tap_is_there() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let work = || {
            let mut lab = Lab::open();
            let before = is_inhabited(&mut lab.0).unwrap();
            lab.veth("cube0", "far", 1500);
            (before, is_inhabited(&mut lab.0).unwrap())
        };
        assert_eq!(namespace.run(work).unwrap(), (false, true));
    }

    #[test]
    fn loopback_comes_up() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let work = || {
            raise_loopback(&mut Route::open().unwrap()).unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").map(|_| ())
        };
        namespace.run(work).unwrap().unwrap();
    }
}
