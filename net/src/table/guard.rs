// SPDX-License-Identifier: Apache-2.0
//! What a guest may claim to be: its interface, with the hardware address and the addresses that the client
//! gave it, and nothing else. Always there, also without a policy.
//!
//! IPv4, IPv6 and ARP alone: no tags of VLANs, no other protocols, whose addresses nobody could check. No
//! router's advertisements and no redirects, which would have neighbours send elsewhere.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::egress;
use super::fields::*;
use crate::nft::{Change, Rule, bytes};
use crate::wire::Pair;

/// The chain of a tap, and the one behind it that passes on what is genuine.
pub(super) fn chains(change: &mut Change, pair: &Pair, has_rules: bool) {
    let pass = format!("pass {}", pair.tap);
    pass_chain(change, &pass, pair, has_rules);
    let name = format!("from {}", pair.tap);
    change.ingress(&name, &pair.tap);
    let own = own(pair);
    change.rule(&name, |rule| {
        rule.is_not(SOURCE_MAC, &pair.interface.mac).drop_packet()
    });
    for ip in own.iter().filter(|ip| ip.is_ipv4()) {
        change.rule(&name, |rule| arp(rule, pair, *ip));
    }
    neighbours(change, &name, pair, &own);
    for &ip in &own {
        let family = Ip::of(ip);
        change.rule(&name, |rule| {
            rule.is(ETHER_TYPE, &family.ether_type)
                .is(family.source, &bytes(ip))
                .go(&pass);
        });
    }
}

fn pass_chain(change: &mut Change, name: &str, pair: &Pair, has_rules: bool) {
    change.chain(name);
    if has_rules {
        on_link(change, name, pair);
        for family in [&V4, &V6] {
            change.rule(name, |rule| {
                rule.is(ETHER_TYPE, &family.ether_type)
                    .call(&family.name(egress::CHAIN));
            });
        }
    }
    change.rule(name, |rule| rule.forward(pair.interface.index));
}

/// An interface's addresses, and the link-local one that a guest makes of its hardware address.
fn own(pair: &Pair) -> Vec<IpAddr> {
    let given = pair.interface.addresses.iter().map(|address| address.ip);
    let mut own: Vec<_> = given
        .chain([IpAddr::V6(link_local(pair.interface.mac))])
        .collect();
    own.sort();
    own.dedup();
    own
}

/// RFC 4291, appendix A.
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let part = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let id = [part(a ^ 2, b), part(c, 0xff), part(0xfe, d), part(e, f)];
    Ipv6Addr::new(0xfe80, 0, 0, 0, id[0], id[1], id[2], id[3])
}

/// ARP in the name of an own address.
fn arp(rule: &mut Rule<'_, '_>, pair: &Pair, ip: IpAddr) {
    rule.is(ETHER_TYPE, &ARP)
        .is(ARP_KIND, &ARP_IPV4)
        .is(ARP_SENDER_MAC, &pair.interface.mac)
        .is(ARP_SENDER_IP, &bytes(ip))
        .forward(pair.interface.index);
}

/// Neighbour discovery: solicitations of one who has no address yet pass, advertisements of a foreign address and
/// what only routers send do not. Extension headers do not hide it.
fn neighbours(change: &mut Change, chain: &str, pair: &Pair, own: &[IpAddr]) {
    fn message<'r, 'a, 'b>(rule: &'r mut Rule<'a, 'b>, kind: u8) -> &'r mut Rule<'a, 'b> {
        rule.is(ETHER_TYPE, &V6.ether_type)
            .carries(ICMP6)
            .is(ICMP_TYPE, &[kind])
    }
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        change.rule(chain, |rule| message(rule, kind).drop_packet());
    }
    change.rule(chain, |rule| {
        let unspecified = bytes(Ipv6Addr::UNSPECIFIED.into());
        let rule = message(rule, NEIGHBOUR_SOLICITATION).is(V6.source, &unspecified);
        within(rule, V6.target, &multicast());
        rule.forward(pair.interface.index);
    });
    let verified = format!("genuine {}", pair.tap);
    change.chain(&verified);
    for ip in own.iter().filter(|ip| ip.is_ipv6()) {
        change.rule(&verified, |rule| rule.is(ND_TARGET, &bytes(*ip)).back());
    }
    change.rule(&verified, |rule| rule.drop_packet());
    change.rule(chain, |rule| {
        message(rule, NEIGHBOUR_ADVERTISEMENT).call(&verified)
    });
}

/// Without neighbour discovery there is no sending at all, so no policy sees it; but it stays on the link, or
/// it could carry data anywhere.
fn on_link(change: &mut Change, chain: &str, pair: &Pair) {
    let prefixes = pair.interface.addresses.iter().filter_map(|address| {
        IpNet::new(address.ip, address.prefix_len)
            .ok()
            .filter(|net| net.addr().is_ipv6())
    });
    let near: Vec<_> = prefixes.chain([multicast(), link_locals()]).collect();
    for kind in [
        ROUTER_SOLICITATION,
        NEIGHBOUR_SOLICITATION,
        NEIGHBOUR_ADVERTISEMENT,
    ] {
        for net in &near {
            change.rule(chain, |rule| {
                rule.is(ETHER_TYPE, &V6.ether_type)
                    .is(NEXT_HEADER, &[ICMP6])
                    .is(ICMP_TYPE, &[kind]);
                within(rule, V6.target, net);
                rule.forward(pair.interface.index);
            });
        }
    }
}

/// What reaches everybody on the link and nobody beyond (RFC 4291, section 2.7).
fn multicast() -> IpNet {
    "ff02::/16".parse().expect("a constant is a network")
}

fn link_locals() -> IpNet {
    "fe80::/10".parse().expect("a constant is a network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_made_as_the_kernel_makes_them() {
        let ip = link_local([0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        assert_eq!(ip.to_string(), "fe80::42:acff:fe11:2");
    }
}
