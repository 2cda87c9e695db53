// SPDX-License-Identifier: Apache-2.0
//! A rule: expressions from left to right. One that does not match ends the rule, not the chain; so does one
//! that cannot be evaluated (a header that is not there), which is why what lets packets through has to match
//! and what is left over is dropped.
//!
//! Values are compared byte by byte, in network order.

use super::Attributes;

/// Attributes of linux/netfilter/nf_tables.h, by expression.
const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `NFT_REG_VERDICT`, and the first register of 4 bytes (`NFT_REG32_00`), in whose place and behind it
/// longer values lie.
const VERDICT_REGISTER: u32 = 0;
const FIRST_REGISTER: u32 = 8;
const REGISTER_SIZE: u32 = 4;

/// `NFT_META_L4PROTO`.
const L4PROTO: u32 = 16;
/// `NFT_CMP_*`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
/// `NFT_DYNSET_OP_UPDATE`.
const UPDATE: u32 = 1;
/// `NF_DROP`, and `NFT_RETURN`, `NFT_GOTO`, `NFT_JUMP`, which are negative.
const DROP: u32 = 0;
const RETURN: u32 = (-5_i32).cast_unsigned();
const GOTO: u32 = (-4_i32).cast_unsigned();
const JUMP: u32 = (-3_i32).cast_unsigned();

/// Where an offset counts from: `NFT_PAYLOAD_*`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Header {
    /// Ethernet's.
    Link = 0,
    /// IP's, or ARP's.
    Network = 1,
    /// TCP's, UDP's or ICMP's.
    Transport = 2,
}

/// A field of a header: where it starts and its length in bytes.
pub(crate) type Field = (Header, u32, u32);

/// Expressions as they are added.
pub(crate) struct Rule<'a, 'b>(pub(super) &'a mut Attributes<'b>);

impl Rule<'_, '_> {
    /// The field has this value.
    pub(crate) fn is(&mut self, field: Field, value: &[u8]) -> &mut Self {
        self.load(field, 0).compare(EQUAL, value)
    }

    /// The field has another value.
    pub(crate) fn is_not(&mut self, field: Field, value: &[u8]) -> &mut Self {
        self.load(field, 0).compare(NOT_EQUAL, value)
    }

    /// The field has this value where the mask has ones.
    pub(crate) fn is_masked(&mut self, field: Field, mask: &[u8], value: &[u8]) -> &mut Self {
        self.load(field, 0).mask(mask).compare(EQUAL, value)
    }

    /// The field has any other value where the mask has ones.
    pub(crate) fn is_not_masked(&mut self, field: Field, mask: &[u8], value: &[u8]) -> &mut Self {
        self.load(field, 0).mask(mask).compare(NOT_EQUAL, value)
    }

    /// The field is one of these, the last included.
    pub(crate) fn is_between(&mut self, field: Field, first: &[u8], last: &[u8]) -> &mut Self {
        self.load(field, 0)
            .compare(AT_LEAST, first)
            .compare(AT_MOST, last)
    }

    /// The transport protocol is this one, behind whatever extension headers.
    pub(crate) fn carries(&mut self, protocol: u8) -> &mut Self {
        self.expression("meta", |meta| {
            meta.number(1, FIRST_REGISTER);
            meta.number(2, L4PROTO);
        })
        .compare(EQUAL, &[protocol])
    }

    /// These fields one behind the other are in a set.
    pub(crate) fn is_in(&mut self, fields: &[Field], set: &str) -> &mut Self {
        self.load_all(fields).expression("lookup", |lookup| {
            lookup.text(1, set);
            lookup.number(2, FIRST_REGISTER);
        })
    }

    /// Puts these fields into a set, or has them stay there, for this time. No match if the set is full.
    pub(crate) fn remember(&mut self, fields: &[Field], set: &str, ms: u64) -> &mut Self {
        self.load_all(fields).expression("dynset", |dynset| {
            dynset.text(1, set);
            dynset.number(3, UPDATE);
            dynset.number(4, FIRST_REGISTER);
            dynset.bytes(6, &ms.to_be_bytes());
        })
    }

    /// The end: out of the link of this number.
    pub(crate) fn forward(&mut self, index: u32) {
        // A link's number is the kernel's own, not a field of a packet.
        self.immediate(FIRST_REGISTER, |data| {
            data.bytes(VALUE, &index.to_ne_bytes())
        })
        .expression("fwd", |fwd| fwd.number(1, FIRST_REGISTER));
    }

    /// The end: dropped.
    pub(crate) fn drop_packet(&mut self) {
        self.verdict(DROP, None);
    }

    /// The end of this chain: on behind the call.
    pub(crate) fn back(&mut self) {
        self.verdict(RETURN, None);
    }

    /// Another chain, and no way back to this one.
    pub(crate) fn go(&mut self, chain: &str) {
        self.verdict(GOTO, Some(chain));
    }

    /// Another chain, and then on here.
    pub(crate) fn call(&mut self, chain: &str) {
        self.verdict(JUMP, Some(chain));
    }

    fn verdict(&mut self, code: u32, chain: Option<&str>) {
        self.immediate(VERDICT_REGISTER, |data| {
            data.nested(VERDICT, |verdict| {
                verdict.number(VERDICT_CODE, code);
                if let Some(chain) = chain {
                    verdict.text(VERDICT_CHAIN, chain);
                }
            });
        });
    }

    fn immediate(&mut self, to: u32, data: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.expression("immediate", |immediate| {
            immediate.number(1, to);
            immediate.nested(2, data);
        })
    }

    fn load_all(&mut self, fields: &[Field]) -> &mut Self {
        let mut offset = 0;
        for &field in fields {
            self.load(field, offset);
            offset += field.2.div_ceil(REGISTER_SIZE);
        }
        self
    }

    /// Into the registers from this one on. A short field is filled up with zeros.
    fn load(&mut self, (header, offset, length): Field, register: u32) -> &mut Self {
        self.expression("payload", |payload| {
            payload.number(1, FIRST_REGISTER + register);
            payload.number(2, header as u32);
            payload.number(3, offset);
            payload.number(4, length);
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).expect("a field is short");
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, FIRST_REGISTER);
            bitwise.number(2, FIRST_REGISTER);
            bitwise.number(3, length);
            bitwise.nested(4, |data| data.bytes(VALUE, mask));
            bitwise.nested(5, |data| data.bytes(VALUE, &vec![0; mask.len()]));
        })
    }

    fn compare(&mut self, how: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |cmp| {
            cmp.number(1, FIRST_REGISTER);
            cmp.number(2, how);
            cmp.nested(3, |data| data.bytes(VALUE, value));
        })
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.0.nested(LIST_ELEMENT, |expression| {
            expression.text(NAME, name);
            expression.nested(DATA, data);
        });
        self
    }
}
