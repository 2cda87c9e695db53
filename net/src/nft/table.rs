// SPDX-License-Identifier: Apache-2.0
//! What a table is made of, as changes of one transaction: the one table of a sandbox, by its fixed name.

use std::net::IpAddr;

use super::Attributes;
use super::batch::{Batch, Kind};
use super::rule::Rule;
use crate::netlink::NetlinkError;

/// Its name; the namespace has none but ours of that name.
const NAME: &str = "cube";

/// `NF_NETDEV_INGRESS` of linux/netfilter.h, and `NF_DROP`.
const INGRESS: u32 = 0;
const DROP: u32 = 0;

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
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const DESCRIPTION_SIZE: u16 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS_LIST: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const DATA_VALUE: u16 = 1;

/// `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`.
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;

/// Elements of one message: an attribute has at most 64 KiB.
const ELEMENTS_OF_A_MESSAGE: usize = 1000;

/// What may be in a set, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Until it is taken out.
    Fixed,
    /// For as long as the one who puts it in says: at most so many.
    Timed(u32),
    /// The same, and rules put it in: at most so many.
    Learned(u32),
}

/// Changes of the table, none of which is made before all are.
pub(crate) struct Change(Batch);

impl Change {
    /// Makes the table. Refused with `EEXIST` if it is there.
    pub(crate) fn create() -> Self {
        let mut batch = Batch::new();
        batch.add_new(Kind::NewTable, |table| table.text(TABLE_NAME, NAME));
        Self(batch)
    }

    /// Makes the table in place of the one that may be there.
    pub(crate) fn recreate() -> Self {
        let mut change = Self::remove();
        change
            .0
            .add(Kind::NewTable, |table| table.text(TABLE_NAME, NAME));
        change
    }

    /// Changes the table that is there.
    pub(crate) fn amend() -> Self {
        Self(Batch::new())
    }

    /// Deletes it. Deleting what may not be there is an error before Linux 6.3; so it is made first.
    pub(crate) fn remove() -> Self {
        let mut batch = Batch::new();
        for kind in [Kind::NewTable, Kind::DeleteTable] {
            batch.add(kind, |table| table.text(TABLE_NAME, NAME));
        }
        Self(batch)
    }

    /// A chain that others call, empty whatever was in it.
    pub(crate) fn chain(&mut self, name: &str) {
        self.empty_chain(name, |_| {});
    }

    /// A chain that gets all that a link receives, empty whatever was in it. What comes to its end is dropped.
    pub(crate) fn ingress(&mut self, name: &str, link: &str) {
        self.empty_chain(name, |chain| {
            chain.nested(CHAIN_HOOK, |hook| {
                hook.number(HOOK_NUMBER, INGRESS);
                hook.number(HOOK_PRIORITY, 0);
                hook.text(HOOK_DEVICE, link);
            });
            chain.text(CHAIN_TYPE, "filter");
            chain.number(CHAIN_POLICY, DROP);
        });
    }

    fn empty_chain(&mut self, name: &str, more: impl FnOnce(&mut Attributes<'_>)) {
        self.0.add(Kind::NewChain, |chain| {
            chain.text(CHAIN_TABLE, NAME);
            chain.text(CHAIN_NAME, name);
            more(chain);
        });
        self.0.add(Kind::DeleteRule, |rule| {
            rule.text(RULE_TABLE, NAME);
            rule.text(RULE_CHAIN, name);
        });
    }

    /// A rule behind those of its chain.
    pub(crate) fn rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Rule<'_, '_>)) {
        self.0.add(Kind::NewRule, |rule| {
            rule.text(RULE_TABLE, NAME);
            rule.text(RULE_CHAIN, chain);
            rule.nested(RULE_EXPRESSIONS, |list| expressions(&mut Rule(list)));
        });
    }

    /// A set of keys of so many bytes. What is in it stays.
    pub(crate) fn set(&mut self, name: &str, key_length: u32, lifetime: Lifetime) {
        let (flags, size) = match lifetime {
            Lifetime::Fixed => (0, None),
            Lifetime::Timed(most) => (TIMEOUT, Some(most)),
            Lifetime::Learned(most) => (TIMEOUT | EVAL, Some(most)),
        };
        let id = self.0.next();
        self.0.add(Kind::NewSet, |set| {
            set.text(SET_TABLE, NAME);
            set.text(SET_NAME, name);
            set.number(SET_FLAGS, flags);
            // For programs that show sets; 0 is bytes of no type.
            set.number(SET_KEY_TYPE, 0);
            set.number(SET_KEY_LENGTH, key_length);
            set.number(SET_ID, id);
            if let Some(size) = size {
                set.nested(SET_DESCRIPTION, |description| {
                    description.number(DESCRIPTION_SIZE, size);
                });
            }
        });
    }

    /// Takes everything out of a set.
    pub(crate) fn clear(&mut self, set: &str) {
        self.0.add(Kind::DeleteElements, |elements| {
            elements.text(ELEMENTS_TABLE, NAME);
            elements.text(ELEMENTS_SET, set);
        });
    }

    /// Puts addresses into a set.
    pub(crate) fn put(&mut self, set: &str, addresses: &[IpAddr]) {
        for some in addresses.chunks(ELEMENTS_OF_A_MESSAGE) {
            self.elements(Kind::NewElements, set, some, None);
        }
    }

    /// Puts addresses into a timed set, from now on for this time. Those that are there are taken out first,
    /// because before Linux 6.12 they would keep their time; and to be taken out they have to be there.
    pub(crate) fn put_for(&mut self, set: &str, addresses: &[IpAddr], ms: u64) {
        for some in addresses.chunks(ELEMENTS_OF_A_MESSAGE) {
            for kind in [Kind::NewElements, Kind::DeleteElements, Kind::NewElements] {
                self.elements(kind, set, some, Some(ms));
            }
        }
    }

    fn elements(&mut self, kind: Kind, set: &str, keys: &[IpAddr], ms: Option<u64>) {
        self.0.add(kind, |elements| {
            elements.text(ELEMENTS_TABLE, NAME);
            elements.text(ELEMENTS_SET, set);
            elements.nested(ELEMENTS_LIST, |list| {
                for &key in keys {
                    list.nested(LIST_ELEMENT, |element| {
                        element.nested(ELEMENT_KEY, |data| data.bytes(DATA_VALUE, &bytes(key)));
                        if let Some(ms) = ms {
                            element.bytes(ELEMENT_TIMEOUT, &ms.to_be_bytes());
                        }
                    });
                }
            });
        });
    }

    /// Has the kernel make all of it, or nothing, in the calling thread's network namespace.
    pub(crate) fn commit(self) -> Result<(), NetlinkError> {
        self.0.commit()
    }
}

/// Whether the calling thread's namespace has the table: its absence is the error `ENOENT`.
pub(crate) fn ask() -> Result<(), NetlinkError> {
    Batch::ask(Kind::GetTable, |table| table.text(TABLE_NAME, NAME))
}

/// In network order.
pub(crate) fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}
