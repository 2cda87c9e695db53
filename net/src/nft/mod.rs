// SPDX-License-Identifier: Apache-2.0
//! nf_tables over netlink (linux/netfilter/nf_tables.h): changes in batches, each of which the kernel carries
//! out as a whole or not at all.
//!
//! An encoder and an exchange, no more: what the tables, chains and rules are good for is known above.

mod attributes;
mod batch;

pub(crate) use attributes::Attributes;
pub(crate) use batch::{Batch, Family, Kind};
