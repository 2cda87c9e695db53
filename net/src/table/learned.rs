// SPDX-License-Identifier: Apache-2.0
//! Who asks the guest, so that a policy lets its answers through: what connection tracking would know, which
//! does not reach to the ingress of a link.
//!
//! Kept by address and ports of both sides: TCP connections from their first packet on, UDP from any packet.
//! And by address alone, for a short time: who may get an answer to an echo, or an error.
//!
//! Likewise the connections that the guest opened to what a name stood for: they live on when that time is over.

use super::fields::*;
use crate::nft::{Change, Field, Lifetime, Rule};

pub(super) const CHAIN: &str = "learned";
const TCP_SET: &str = "tcp";
const UDP_SET: &str = "udp";
const PEERS: &str = "peers";
const OPENED: &str = "opened";

/// Most elements of a set, about 100 bytes each. When one is full, answers to new connections are not let
/// through, unless the policy allows their target.
const MOST: u32 = 16 << 10;

/// How long one is remembered. A connection that nobody answered soon makes room; one that was lives on through
/// the two hours between two keepalives (tcp(7), `tcp_keepalive_time`).
const UNANSWERED_MS: u64 = 60_000;
const CONNECTION_MS: u64 = 3 * 3600 * 1000;
const DATAGRAM_MS: u64 = 120_000;
const PEER_MS: u64 = 30_000;

/// Sets stay when rules are replaced, so that connections do; but not those of UDP: the answer to what the
/// guest sent itself looks like a question there. Nor what it opened, which the new rules may not allow.
pub(super) fn sets(change: &mut Change) {
    for family in [&V4, &V6] {
        let ports = 8;
        for name in [TCP_SET, UDP_SET, OPENED] {
            change.set(
                &family.name(name),
                family.length() + ports,
                Lifetime::Learned(MOST),
            );
        }
        change.set(
            &family.name(PEERS),
            family.length(),
            Lifetime::Learned(MOST),
        );
        change.clear(&family.name(UDP_SET));
        change.clear(&family.name(PEERS));
        change.clear(&family.name(OPENED));
    }
}

/// What looks at packets to the guest.
pub(super) fn chain(change: &mut Change) {
    change.chain(CHAIN);
    for family in [&V4, &V6] {
        let question = [family.source, SOURCE_PORT, TARGET_PORT];
        change.rule(CHAIN, |rule| {
            rule.is(ETHER_TYPE, &family.ether_type)
                .carries(TCP)
                .is_masked(TCP_FLAGS, &SYN_ACK, &SYN)
                .remember(&question, &family.name(TCP_SET), UNANSWERED_MS);
        });
        change.rule(CHAIN, |rule| {
            rule.is(ETHER_TYPE, &family.ether_type)
                .carries(UDP)
                .remember(&question, &family.name(UDP_SET), DATAGRAM_MS);
        });
        change.rule(CHAIN, |rule| {
            rule.is(ETHER_TYPE, &family.ether_type).remember(
                &[family.source],
                &family.name(PEERS),
                PEER_MS,
            );
        });
    }
}

/// In a chain of packets from the guest: answers go back.
pub(super) fn answers(change: &mut Change, chain: &str, family: &Ip) {
    change.rule(chain, |rule| {
        // The first packet of a connection of its own is none.
        rule.carries(TCP).is_not_masked(TCP_FLAGS, &SYN_ACK, &SYN);
        go_on(rule, family, TCP_SET, CONNECTION_MS);
    });
    change.rule(chain, |rule| {
        rule.carries(UDP);
        go_on(rule, family, UDP_SET, DATAGRAM_MS);
    });
    for kind in family.icmp_answers {
        change.rule(chain, |rule| {
            rule.carries(family.icmp)
                .is(ICMP_TYPE, &[*kind])
                .is_in(&[family.target], &family.name(PEERS))
                .back();
        });
    }
}

/// In a chain of packets from the guest: to addresses of a set, and on over connections that were opened to them
/// while they were there.
pub(super) fn connections(change: &mut Change, chain: &str, family: &Ip, addresses: &str) {
    change.rule(chain, |rule| {
        rule.carries(TCP).is_not_masked(TCP_FLAGS, &SYN_ACK, &SYN);
        go_on(rule, family, OPENED, CONNECTION_MS);
    });
    change.rule(chain, |rule| {
        rule.carries(TCP)
            .is_masked(TCP_FLAGS, &SYN_ACK, &SYN)
            .is_in(&[family.target], addresses)
            .remember(&flow(family), &family.name(OPENED), UNANSWERED_MS)
            .back();
    });
    // Everything else, and connections that there was no room for.
    change.rule(chain, |rule| rule.is_in(&[family.target], addresses).back());
}

/// What is in the set stays there for this time, and passes.
fn go_on(rule: &mut Rule<'_, '_>, family: &Ip, set: &str, ms: u64) {
    let (flow, set) = (flow(family), family.name(set));
    rule.is_in(&flow, &set).remember(&flow, &set, ms).back();
}

/// A packet from the guest as its sets know it: a question to it with the two sides exchanged.
fn flow(family: &Ip) -> [Field; 3] {
    [family.target, TARGET_PORT, SOURCE_PORT]
}
