// SPDX-License-Identifier: Apache-2.0
//! The one table of a sandbox: what ties its interfaces to its taps.
//!
//! A chain hangs at the ingress of each of the two links of a pair and sends all it gets out of the other
//! one, so that the host's own protocols never see a packet of the guest. netfilter and not traffic
//! control, whose redirects come before netfilter's hook and so would go round any rule of a policy.
//! It is replaced in one transaction: no packet sees half of it.

use rustix::io::Errno;
use thiserror::Error;

use crate::netlink::NetlinkError;
use crate::nft::{Attributes, Batch, Family, Kind};
use crate::wire::Pair;

/// Its name; the namespace has none but ours of that name.
const TABLE: &str = "cube";

/// `NF_NETDEV_INGRESS` of linux/netfilter.h.
const INGRESS: u32 = 0;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;

/// Attributes of linux/netfilter/nf_tables.h, by the objects that have them.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const FORWARD_DEVICE: u16 = 1;

/// Wires pairs of the calling thread's namespace, in place of what was there.
///
/// A start finds no table, and is to take no longer than that: deleting one makes the kernel wait for a
/// grace period of some milliseconds before the socket is closed (`nft_rcv_nl_event`).
pub fn install(pairs: &[Pair]) -> Result<(), TableError> {
    let mut batch = Batch::new();
    batch.add_new(Kind::NewTable, Family::Netdev, |table| {
        table.text(TABLE_NAME, TABLE);
    });
    match wire(batch, pairs) {
        Err(error) if error.errno() == Some(Errno::EXIST.raw_os_error()) => replace(pairs),
        Err(source) => Err(TableError::install(pairs, source)),
        Ok(()) => Ok(()),
    }
}

/// The same where there is one.
fn replace(pairs: &[Pair]) -> Result<(), TableError> {
    let mut batch = Batch::new();
    clear(&mut batch);
    batch.add(Kind::NewTable, Family::Netdev, |table| {
        table.text(TABLE_NAME, TABLE);
    });
    wire(batch, pairs).map_err(|source| TableError::install(pairs, source))
}

fn wire(mut batch: Batch, pairs: &[Pair]) -> Result<(), NetlinkError> {
    for pair in pairs {
        let interface = &pair.interface;
        redirect(&mut batch, &interface.name, pair.tap_index);
        redirect(&mut batch, &pair.tap, interface.index);
    }
    batch.commit()
}

/// Removes the table from the calling thread's namespace, if it is there.
pub fn remove() -> Result<(), TableError> {
    let mut batch = Batch::new();
    clear(&mut batch);
    batch.commit().map_err(TableError::Remove)
}

/// Whether the calling thread's namespace has the table: for whoever wants to know what is left.
pub fn is_installed() -> Result<bool, TableError> {
    let asked = Batch::ask(Kind::GetTable, Family::Netdev, |table| {
        table.text(TABLE_NAME, TABLE);
    });
    match asked {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
        Err(error) => Err(TableError::Look(error)),
    }
}

/// Deleting what may not be there is an error before Linux 6.3; so it is made first.
fn clear(batch: &mut Batch) {
    for kind in [Kind::NewTable, Kind::DeleteTable] {
        batch.add(kind, Family::Netdev, |table| table.text(TABLE_NAME, TABLE));
    }
}

/// Sends out of one link what another one receives.
fn redirect(batch: &mut Batch, from: &str, to: u32) {
    let chain_name = format!("from {from}");
    batch.add(Kind::NewChain, Family::Netdev, |chain| {
        chain.text(CHAIN_TABLE, TABLE);
        chain.text(CHAIN_NAME, &chain_name);
        chain.nested(CHAIN_HOOK, |hook| {
            hook.number(HOOK_NUMBER, INGRESS);
            hook.number(HOOK_PRIORITY, 0);
            hook.text(HOOK_DEVICE, from);
        });
        chain.text(CHAIN_TYPE, "filter");
        chain.number(CHAIN_POLICY, ACCEPT);
    });
    batch.add(Kind::NewRule, Family::Netdev, |rule| {
        rule.text(RULE_TABLE, TABLE);
        rule.text(RULE_CHAIN, &chain_name);
        rule.nested(RULE_EXPRESSIONS, |list| {
            expression(list, "immediate", |data| {
                data.number(IMMEDIATE_REGISTER, REGISTER);
                // An interface's number is the kernel's own, not a field of a packet.
                data.nested(IMMEDIATE_DATA, |data| {
                    data.bytes(DATA_VALUE, &to.to_ne_bytes());
                });
            });
            expression(list, "fwd", |data| data.number(FORWARD_DEVICE, REGISTER));
        });
    });
}

fn expression(list: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    list.nested(LIST_ELEMENT, |expression| {
        expression.text(EXPRESSION_NAME, name);
        expression.nested(EXPRESSION_DATA, data);
    });
}

/// Why the table is not as it should be.
#[derive(Debug, Error)]
pub enum TableError {
    /// It was not put in place; what was there before is as it was.
    #[error("the table that wires {} could not be put in place", links.join(", "))]
    Install {
        /// Each interface and its tap.
        links: Vec<String>,
        /// Why.
        source: NetlinkError,
    },
    /// It stays.
    #[error("the table could not be removed")]
    Remove(#[source] NetlinkError),
    /// The kernel would not say.
    #[error("the table could not be looked for")]
    Look(#[source] NetlinkError),
}

impl TableError {
    fn install(pairs: &[Pair], source: NetlinkError) -> Self {
        let links = pairs
            .iter()
            .map(|pair| format!("{} to {}", pair.interface.name, pair.tap));
        TableError::Install {
            links: links.collect(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
