// SPDX-License-Identifier: Apache-2.0
//! Netlink attributes, one after the other into a buffer. Numbers of nf_tables are in network order.

/// Of an attribute's kind: it holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;

/// Length of an attribute's header, and what attributes are aligned to.
const HEADER: usize = 4;

/// Attributes of one level.
pub(crate) struct Attributes<'a>(pub(super) &'a mut Vec<u8>);

impl Attributes<'_> {
    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.0.extend_from_slice(value);
        self.close(start);
    }

    /// A string with the zero that the kernel wants.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.close(start);
    }

    /// A number.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Attributes within one.
    pub(crate) fn nested(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.open(kind | NESTED);
        inner(&mut Attributes(self.0));
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// Writes the length, without the padding behind.
    fn close(&mut self, start: usize) {
        let length = self.0.len() - start;
        // What is encoded here is names and numbers, far from this limit.
        let length = u16::try_from(length).expect("an attribute has less than 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(HEADER), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let mut bytes = Vec::new();
        let mut top = Attributes(&mut bytes);
        top.text(1, "ab");
        top.nested(2, |inner| inner.number(3, 7));
        let mut expect = Vec::new();
        expect.extend(7_u16.to_ne_bytes());
        expect.extend(1_u16.to_ne_bytes());
        expect.extend(b"ab\0\0");
        expect.extend(12_u16.to_ne_bytes());
        expect.extend((2 | NESTED).to_ne_bytes());
        expect.extend(8_u16.to_ne_bytes());
        expect.extend(3_u16.to_ne_bytes());
        expect.extend([0, 0, 0, 7]);
        assert_eq!(bytes, expect);
    }
}
