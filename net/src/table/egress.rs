// SPDX-License-Identifier: Apache-2.0
//! A policy as chains, one for each family: returning lets a packet through, to whoever called.
//!
//! The first chain drops what cannot be judged: fragments, whose ports may be in another one, IPv6 with
//! extension headers, protocols without a rule. The second one judges.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::Rules;
use super::fields::*;
use super::learned;
use crate::nft::{Change, Lifetime, Rule};
use crate::policy::{Destination, Ports, Protocol, Verdict};

pub(super) const CHAIN: &str = "egress";
const JUDGE: &str = "judge";
/// Addresses of allowed names, and those of the host.
const NAMED: &str = "named";
const NEVER: &str = "never";

/// Most addresses of names in a set, about 100 bytes each. A guest that fills one has its next names refused until
/// some have gone.
const MOST_NAMED: u32 = 16 << 10;

pub(super) fn chains(change: &mut Change, rules: Rules<'_>) {
    for family in [&V4, &V6] {
        let judge = family.name(JUDGE);
        change.chain(&judge);
        sort_out(change, &judge, family);
        never(change, &judge, family, rules);
        for allowed in &rules.policy.allow {
            destination(change, &judge, family, allowed, Verdict::Allow);
        }
        let named = family.name(NAMED);
        change.set(&named, family.length(), Lifetime::Timed(MOST_NAMED));
        change.clear(&named);
        if rules.policy.names().next().is_some() {
            learned::connections(change, &judge, family, &named);
        }
        for denied in &rules.policy.deny {
            destination(change, &judge, family, denied, Verdict::Deny);
        }
        change.rule(&judge, |rule| decide(rule, rules.policy.default));
    }
}

/// What cannot be judged goes no further.
fn sort_out(change: &mut Change, judge: &str, family: &Ip) {
    let chain = family.name(CHAIN);
    change.chain(&chain);
    let is_v4 = family.digit == V4.digit;
    if is_v4 {
        change.rule(&chain, |rule| {
            rule.is_not_masked(FRAGMENT, &FRAGMENT_BITS, &[0, 0])
                .drop_packet();
        });
    }
    for protocol in [TCP, UDP, family.icmp] {
        change.rule(&chain, |rule| {
            if !is_v4 {
                rule.is(NEXT_HEADER, &[protocol]);
            }
            rule.carries(protocol).go(judge);
        });
    }
    change.rule(&chain, |rule| rule.drop_packet());
}

/// Answers first: who asks from the host itself gets one.
fn never(change: &mut Change, judge: &str, family: &Ip, rules: Rules<'_>) {
    learned::answers(change, judge, family);
    let set = family.name(NEVER);
    change.set(&set, family.length(), Lifetime::Fixed);
    change.clear(&set);
    let never = rules.never.iter().filter(|net| family.has(net));
    let (single, nets): (Vec<&IpNet>, Vec<_>) =
        never.partition(|net| net.prefix_len() == net.max_prefix_len());
    let single: Vec<_> = single.into_iter().map(|net| net.addr()).collect();
    change.put(&set, &single);
    change.rule(judge, |rule| {
        rule.is_in(&[family.target], &set).drop_packet()
    });
    for net in nets {
        change.rule(judge, |rule| {
            within(rule, family.target, net);
            rule.drop_packet();
        });
    }
}

/// One entry: a rule, or one for each of its ranges of ports. Names are in a set.
fn destination(
    change: &mut Change,
    chain: &str,
    family: &Ip,
    destination: &Destination,
    verdict: Verdict,
) {
    let Destination::Net { net, ports } = destination else {
        return;
    };
    if !family.has(net) {
        return;
    }
    let Some(Ports { protocol, ranges }) = ports else {
        change.rule(chain, |rule| {
            within(rule, family.target, net);
            decide(rule, verdict);
        });
        return;
    };
    let protocol = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    for (first, last) in ranges {
        change.rule(chain, |rule| {
            within(rule, family.target, net);
            rule.carries(protocol).is_between(
                TARGET_PORT,
                &first.to_be_bytes(),
                &last.to_be_bytes(),
            );
            decide(rule, verdict);
        });
    }
}

fn decide(rule: &mut Rule<'_, '_>, verdict: Verdict) {
    match verdict {
        Verdict::Allow => rule.back(),
        Verdict::Deny => rule.drop_packet(),
    }
}

pub(super) fn admit(change: &mut Change, addresses: &[IpAddr], lifetime: Duration) {
    let ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
    for family in [&V4, &V6] {
        let some = addresses.iter().copied();
        let some: Vec<_> = some.filter(|ip| family.has(&(*ip).into())).collect();
        change.put_for(&family.name(NAMED), &some, ms);
    }
}
