// SPDX-License-Identifier: Apache-2.0
//! Where things are in a packet, and the numbers that stand there.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::nft::{Field, Header, Rule, bytes};

/// Ethernet. The type is read where it stands, so that a VLAN's tag is seen: the kernel has put it aside by then,
/// and would put it back on the way out.
pub(super) const SOURCE_MAC: Field = (Header::Link, 6, 6);
pub(super) const ETHER_TYPE: Field = (Header::Link, 12, 2);

/// ARP (RFC 826) for IPv4 over ethernet: the fixed beginning, the sender.
pub(super) const ARP_KIND: Field = (Header::Network, 0, 6);
pub(super) const ARP_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
pub(super) const ARP_SENDER_MAC: Field = (Header::Network, 8, 6);
pub(super) const ARP_SENDER_IP: Field = (Header::Network, 14, 4);
pub(super) const ARP: [u8; 2] = [0x08, 0x06];

/// IPv4 (RFC 791): more fragments, and the fragment's offset.
pub(super) const FRAGMENT: Field = (Header::Network, 6, 2);
pub(super) const FRAGMENT_BITS: [u8; 2] = [0x3f, 0xff];

/// IPv6 (RFC 8200): what follows the fixed header.
pub(super) const NEXT_HEADER: Field = (Header::Network, 6, 1);

/// IANA's numbers of protocols.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP6: u8 = 58;

/// TCP and UDP, and TCP's flags (RFC 9293).
pub(super) const SOURCE_PORT: Field = (Header::Transport, 0, 2);
pub(super) const TARGET_PORT: Field = (Header::Transport, 2, 2);
pub(super) const TCP_FLAGS: Field = (Header::Transport, 13, 1);
pub(super) const SYN_ACK: [u8; 1] = [0x12];
pub(super) const SYN: [u8; 1] = [0x02];

/// ICMP of both families; the address that a neighbour's discovery is about (RFC 4861).
pub(super) const ICMP_TYPE: Field = (Header::Transport, 0, 1);
pub(super) const ND_TARGET: Field = (Header::Transport, 8, 16);
pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

/// What differs between the two families.
#[derive(Debug)]
pub(super) struct Ip {
    pub(super) ether_type: [u8; 2],
    pub(super) source: Field,
    pub(super) target: Field,
    pub(super) icmp: u8,
    /// ICMP's answers: to an echo, and errors that a packet caused.
    pub(super) icmp_answers: &'static [u8],
    /// Behind the names of chains and sets.
    pub(super) digit: char,
}

pub(super) const V4: Ip = Ip {
    ether_type: [0x08, 0x00],
    source: (Header::Network, 12, 4),
    target: (Header::Network, 16, 4),
    icmp: ICMP,
    icmp_answers: &[0, 3, 11, 12],
    digit: '4',
};

pub(super) const V6: Ip = Ip {
    ether_type: [0x86, 0xdd],
    source: (Header::Network, 8, 16),
    target: (Header::Network, 24, 16),
    icmp: ICMP6,
    icmp_answers: &[129, 1, 2, 3, 4],
    digit: '6',
};

impl Ip {
    /// The one of an address.
    pub(super) fn of(ip: IpAddr) -> &'static Self {
        if ip.is_ipv4() { &V4 } else { &V6 }
    }

    /// A name of this family.
    pub(super) fn name(&self, of: &str) -> String {
        format!("{of}{}", self.digit)
    }

    /// Length of an address in bytes.
    pub(super) fn length(&self) -> u32 {
        self.source.2
    }

    /// Of this family.
    pub(super) fn has(&self, net: &IpNet) -> bool {
        self.digit == Self::of(net.addr()).digit
    }
}

/// The field is in the network. The network of all addresses is always matched.
pub(super) fn within(rule: &mut Rule<'_, '_>, field: Field, net: &IpNet) {
    if net.prefix_len() == net.max_prefix_len() {
        rule.is(field, &bytes(net.addr()));
    } else if net.prefix_len() > 0 {
        rule.is_masked(field, &bytes(net.netmask()), &bytes(net.network()));
    }
}
