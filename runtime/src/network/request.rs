// SPDX-License-Identifier: Apache-2.0
//! From what was found in a namespace to what the agent is asked to set up.

use std::net::IpAddr;

use cube_net::wire::{Address, Found, Interface, Neighbour, Route};
use cube_protocol::v1::agent::{NetAddress, NetInterface, NetNeighbour, NetRoute, NetworkRequest};

/// Families as the protocol names them.
const IPV4: u32 = 4;
const IPV6: u32 = 6;

/// The guest's network: each interface in the slot of its place in the list.
pub(super) fn of(found: &Found, dns_relay: bool) -> NetworkRequest {
    NetworkRequest {
        dns_relay,
        interfaces: (0..).zip(&found.interfaces).map(interface).collect(),
        routes: found.routes.iter().map(route).collect(),
        neighbours: found.neighbours.iter().map(neighbour).collect(),
        ..Default::default()
    }
}

fn interface((slot, interface): (u32, &Interface)) -> NetInterface {
    NetInterface {
        slot,
        name: interface.name.clone(),
        mac: interface.mac.to_vec(),
        mtu: interface.mtu,
        addresses: interface.addresses.iter().map(address).collect(),
        ..Default::default()
    }
}

fn address(address: &Address) -> NetAddress {
    NetAddress {
        ip: bytes(address.ip),
        prefix_len: address.prefix_len.into(),
        ..Default::default()
    }
}

fn route(route: &Route) -> NetRoute {
    let optional = |ip: Option<IpAddr>| ip.map(bytes).unwrap_or_default();
    NetRoute {
        interface: route.interface.clone(),
        destination: optional(route.destination),
        prefix_len: route.prefix_len.into(),
        gateway: optional(route.gateway),
        source: optional(route.source),
        scope: route.scope.into(),
        metric: route.metric,
        family: if route.ipv6 { IPV6 } else { IPV4 },
        onlink: route.onlink,
        ..Default::default()
    }
}

fn neighbour(neighbour: &Neighbour) -> NetNeighbour {
    NetNeighbour {
        interface: neighbour.interface.clone(),
        ip: bytes(neighbour.ip),
        mac: neighbour.mac.to_vec(),
        ..Default::default()
    }
}

/// In network order, 4 or 16 of them.
fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn eth(name: &str, mac: u8, addresses: &[(&str, u8)]) -> Interface {
        let address = |&(text, prefix_len): &(&str, u8)| Address {
            ip: ip(text),
            prefix_len,
        };
        Interface {
            index: 40,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, mac],
            mtu: 1450,
            addresses: addresses.iter().map(address).collect(),
        }
    }

    #[test]
    fn interfaces_get_the_slots_of_their_order() {
        let found = Found {
            interfaces: vec![
                eth("net1", 1, &[("10.4.0.2", 24), ("fd00::2", 64)]),
                eth("eth0", 2, &[]),
            ],
            ..Found::default()
        };
        let request = of(&found, false);
        let [first, second] = &request.interfaces[..] else {
            panic!("{request:?}")
        };
        assert_eq!(
            (first.slot, first.name.as_str(), first.mtu),
            (0, "net1", 1450)
        );
        assert_eq!((second.slot, second.name.as_str()), (1, "eth0"));
        assert_eq!(second.mac, [2, 0, 0, 0, 0, 2]);
        let addresses: Vec<_> = first
            .addresses
            .iter()
            .map(|address| (address.ip.len(), address.prefix_len))
            .collect();
        assert_eq!(addresses, [(4, 24), (16, 64)]);
        assert_eq!(first.addresses[0].ip, [10, 4, 0, 2]);
    }

    fn check(route: Route, expect: NetRoute) {
        assert_eq!(super::route(&route), expect);
    }

    #[test]
    fn routes_keep_all_that_they_say() {
        let plain = Route {
            interface: "eth0".into(),
            ipv6: false,
            destination: None,
            prefix_len: 0,
            gateway: Some(ip("10.4.0.1")),
            source: None,
            scope: 0,
            metric: 0,
            onlink: false,
        };
        let expect = NetRoute {
            interface: "eth0".into(),
            gateway: vec![10, 4, 0, 1],
            family: 4,
            ..Default::default()
        };
        check(plain.clone(), expect.clone());
        let mut fifth = [0; 16];
        fifth[..2].copy_from_slice(&[0xfe, 0x80]);
        fifth[15] = 1;
        check(
            Route {
                ipv6: true,
                gateway: Some(ip("fe80::1")),
                metric: 1024,
                onlink: true,
                ..plain.clone()
            },
            NetRoute {
                family: 6,
                gateway: fifth.to_vec(),
                metric: 1024,
                onlink: true,
                ..expect.clone()
            },
        );
        check(
            Route {
                destination: Some(ip("10.4.0.0")),
                prefix_len: 24,
                gateway: None,
                source: Some(ip("10.4.0.2")),
                scope: 253,
                ..plain
            },
            NetRoute {
                destination: vec![10, 4, 0, 0],
                prefix_len: 24,
                gateway: Vec::new(),
                source: vec![10, 4, 0, 2],
                scope: 253,
                ..expect
            },
        );
    }

    #[test]
    fn neighbours_are_handed_on() {
        let found = Found {
            neighbours: vec![Neighbour {
                interface: "eth0".into(),
                ip: ip("169.254.1.1"),
                mac: [0xee; 6],
            }],
            ..Found::default()
        };
        let request = of(&found, false);
        assert_eq!(request.neighbours[0].ip, [169, 254, 1, 1]);
        assert_eq!(request.neighbours[0].mac, [0xee; 6]);
    }
}
