// SPDX-License-Identifier: Apache-2.0
//! A transaction: its messages between a begin and an end, in one datagram.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};

use super::Attributes;
use crate::netlink::{Netfilter, NetlinkError};

/// `NFNL_SUBSYS_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`.
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;

/// What a message does: `NFT_MSG_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    /// Also where there is one.
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
    /// Without a rule: all of its chain.
    DeleteRule = 8,
    NewSet = 9,
    NewElements = 12,
    /// Without elements: all of its set.
    DeleteElements = 14,
}

/// Of the tables that hang at links: `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;

/// Changes that belong together.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Of the next message; the begin has 0.
    sequence: u32,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::with_capacity(4096),
            sequence: 0,
        };
        batch.message(BEGIN, NLM_F_REQUEST, 0, NFTABLES, |_| {});
        batch
    }

    /// The number of the next change: no two have the same.
    pub(crate) fn next(&self) -> u32 {
        self.sequence
    }

    /// Adds a change.
    pub(crate) fn add(&mut self, kind: Kind, attributes: impl FnOnce(&mut Attributes<'_>)) {
        self.add_with(0, kind, attributes);
    }

    fn add_with(&mut self, more: u16, kind: Kind, attributes: impl FnOnce(&mut Attributes<'_>)) {
        let flags = match kind {
            Kind::GetTable | Kind::DeleteTable | Kind::DeleteRule | Kind::DeleteElements => 0,
            Kind::NewTable | Kind::NewChain | Kind::NewSet | Kind::NewElements => NLM_F_CREATE,
            // Rules are in the order in which they come.
            Kind::NewRule => NLM_F_CREATE | NLM_F_APPEND,
        };
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags | more;
        let kind = NFTABLES << 8 | kind as u16;
        self.message(kind, flags, NETDEV, 0, attributes);
    }

    /// Adds a change that is refused if what it makes is there already.
    pub(crate) fn add_new(&mut self, kind: Kind, attributes: impl FnOnce(&mut Attributes<'_>)) {
        self.add_with(NLM_F_EXCL, kind, attributes);
    }

    /// Asks for one object, which no transaction can.
    pub(crate) fn ask(
        kind: Kind,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<(), NetlinkError> {
        let mut question = Self {
            bytes: Vec::new(),
            sequence: 0,
        };
        question.add(kind, attributes);
        Netfilter::open()?.commit(&question.bytes, 0)
    }

    /// Has the kernel carry it out, all or nothing, in the calling thread's network namespace.
    pub(crate) fn commit(mut self) -> Result<(), NetlinkError> {
        let last = self.sequence.saturating_sub(1);
        self.message(END, NLM_F_REQUEST, 0, NFTABLES, |_| {});
        Netfilter::open()?.commit(&self.bytes, last)
    }

    /// A netlink message with the header of netfilter's (`struct nfgenmsg`).
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        subsystem: u16,
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&subsystem.to_be_bytes());
        attributes(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).expect("a message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.sequence += 1;
    }
}
