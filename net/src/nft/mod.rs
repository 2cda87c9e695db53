// SPDX-License-Identifier: Apache-2.0
//! nf_tables over netlink (linux/netfilter/nf_tables.h): changes in batches, each of which the kernel carries
//! out as a whole or not at all.
//!
//! An encoder and an exchange, no more: what the table, its chains and rules are good for is known above.

mod attributes;
mod batch;
mod rule;
mod table;

pub(crate) use attributes::Attributes;
pub(crate) use rule::{Field, Header, Rule};
pub(crate) use table::{Change, Lifetime, ask, bytes};
