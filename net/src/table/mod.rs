// SPDX-License-Identifier: Apache-2.0
//! The one table of a sandbox: what ties its interfaces to its taps, and what of the guest's packets goes through.
//!
//! ```text
//! from eth0:  [ learned: who asks the guest ]  ────────────────────────────────────▶ out of cube0
//! from cube0: guard (own addresses alone) ─▶ pass cube0: [ egress4 | egress6 ]  ──▶ out of eth0
//!                          └── dropped                            └── dropped
//! ```
//!
//! A chain hangs at the ingress of each of the two links of a pair and sends what it lets through out of the other
//! one, so that the host's own protocols never see a packet of the guest. netfilter and not traffic
//! control, whose redirects come before netfilter's hook and so would go round any rule of a policy.
//! What is in brackets is there with a policy only. Each change is one transaction: no packet sees half of it.

mod egress;
mod error;
mod fields;
mod guard;
mod learned;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;

pub use error::TableError;

use crate::netlink::NetlinkError;
use crate::nft::{self, Change};
use crate::policy::Policy;
use crate::wire::Pair;

/// A policy and what it cannot allow.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What the sandbox may send to.
    pub policy: &'a Policy,
    /// What it may not, whatever the policy says ([`Policy::never`]).
    pub never: &'a [IpNet],
}

/// Wires pairs of the calling thread's namespace, in place of what was there. Without rules a guest may send
/// to anybody, from its own addresses.
///
/// A start finds no table, and is to take no longer than that: deleting one makes the kernel wait for a
/// grace period of some milliseconds before the socket is closed (`nft_rcv_nl_event`).
pub fn install(pairs: &[Pair], rules: Option<Rules<'_>>) -> Result<(), TableError> {
    let installed = match fill(Change::create(), pairs, rules) {
        Err(error) if error.errno() == Some(Errno::EXIST.raw_os_error()) => {
            fill(Change::recreate(), pairs, rules)
        }
        other => other,
    };
    installed.map_err(|source| TableError::install(pairs, source))
}

/// Replaces the rules of pairs that are wired. Connections that others opened to the guest live on; those
/// that it opened itself go on where the new rules let them.
pub fn enforce(pairs: &[Pair], rules: Rules<'_>) -> Result<(), TableError> {
    fill(Change::amend(), pairs, Some(rules)).map_err(|source| TableError::install(pairs, source))
}

/// Lets the guest send to these addresses for a while: what allowed names stand for. The namespace's rules
/// have to be there, and room for all of them: else none is let through.
pub fn admit(addresses: &[IpAddr], lifetime: Duration) -> Result<(), TableError> {
    let mut change = Change::amend();
    egress::admit(&mut change, addresses, lifetime);
    change.commit().map_err(TableError::Admit)
}

fn fill(mut change: Change, pairs: &[Pair], rules: Option<Rules<'_>>) -> Result<(), NetlinkError> {
    if let Some(rules) = rules {
        learned::sets(&mut change);
        learned::chain(&mut change);
        egress::chains(&mut change, rules);
    }
    for pair in pairs {
        guard::chains(&mut change, pair, rules.is_some());
        let name = format!("from {}", pair.interface.name);
        change.ingress(&name, &pair.interface.name);
        if rules.is_some() {
            change.rule(&name, |rule| rule.call(learned::CHAIN));
        }
        change.rule(&name, |rule| rule.forward(pair.tap_index));
    }
    change.commit()
}

/// Removes the table from the calling thread's namespace, if it is there.
pub fn remove() -> Result<(), TableError> {
    Change::remove().commit().map_err(TableError::Remove)
}

/// Whether the calling thread's namespace has the table: for whoever wants to know what is left.
pub fn is_installed() -> Result<bool, TableError> {
    match nft::ask() {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
        Err(error) => Err(TableError::Look(error)),
    }
}

#[cfg(test)]
mod lab;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
