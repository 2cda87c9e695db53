// SPDX-License-Identifier: Apache-2.0
//! As much of the ACPI machine language (chapter 20) and its resource descriptors (section
//! 6.4) as our devices need. Each function gives one encoded object.

/// `Scope (name) { objects }`; the name is a root path such as `\_SB_`.
pub(super) fn scope(name: &[u8], objects: &[u8]) -> Vec<u8> {
    const SCOPE: u8 = 0x10;
    packaged(&[SCOPE], &[name, objects].concat())
}

/// `Device (name) { objects }`
pub(super) fn device(name: [u8; 4], objects: &[u8]) -> Vec<u8> {
    const DEVICE: [u8; 2] = [0x5b, 0x82];
    packaged(&DEVICE, &[&name, objects].concat())
}

/// `Name (name, object)`
pub(super) fn name(name: &[u8], object: &[u8]) -> Vec<u8> {
    const NAME: u8 = 0x08;
    [&[NAME], name, object].concat()
}

/// A string of ASCII characters.
pub(super) fn string(text: &str) -> Vec<u8> {
    const STRING: u8 = 0x0d;
    [&[STRING], text.as_bytes(), &[0]].concat()
}

/// An integer of one byte.
pub(super) fn byte(value: u8) -> Vec<u8> {
    const BYTE: u8 = 0x0a;
    vec![BYTE, value]
}

/// `Package () { elements }`
pub(super) fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    const PACKAGE: u8 = 0x12;
    let count = u8::try_from(elements.len()).expect("our packages have four elements");
    packaged(&[PACKAGE], &[vec![count], elements.concat()].concat())
}

/// `ResourceTemplate () { descriptors }`: a buffer that ends with an end tag.
pub(super) fn resources(descriptors: &[Vec<u8>]) -> Vec<u8> {
    const BUFFER: u8 = 0x11;
    const END: [u8; 2] = [0x79, 0]; // no checksum
    let content = [descriptors.concat(), END.to_vec()].concat();
    let size = u8::try_from(content.len()).expect("our templates have a few descriptors");
    packaged(&[BUFFER], &[byte(size), content].concat())
}

/// `Memory32Fixed (ReadWrite, start, length)`
pub(super) fn memory(start: u32, length: u32) -> Vec<u8> {
    const READ_WRITE: u8 = 1;
    let mut descriptor = vec![0x86, 9, 0, READ_WRITE];
    descriptor.extend_from_slice(&start.to_le_bytes());
    descriptor.extend_from_slice(&length.to_le_bytes());
    descriptor
}

/// `IO (Decode16, start, start, 0, length)`
pub(super) fn ports(start: u16, length: u8) -> Vec<u8> {
    const DECODE_16: u8 = 1;
    let [low, high] = start.to_le_bytes();
    vec![0x47, DECODE_16, low, high, low, high, 0, length]
}

/// `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi }`
pub(super) fn interrupt(gsi: u32) -> Vec<u8> {
    const CONSUMER_EDGE: u8 = 0b11;
    const COUNT: u8 = 1;
    let mut descriptor = vec![0x89, 6, 0, CONSUMER_EDGE, COUNT];
    descriptor.extend_from_slice(&gsi.to_le_bytes());
    descriptor
}

/// An object whose length stands between its opcode and its content (section 20.2.4).
fn packaged(opcode: &[u8], content: &[u8]) -> Vec<u8> {
    [opcode, &package_length(content.len()), content].concat()
}

/// The length of a package, which counts its own bytes too: one byte up to 63, else four bits
/// in the first byte and eight in each of up to three more.
fn package_length(content: usize) -> Vec<u8> {
    let more = (0..=3)
        .find(|more| content + 1 + more < capacity(*more))
        .expect("our tables have a few KiB");
    let total = content + 1 + more;
    let [low, ..] = total.to_le_bytes();
    if more == 0 {
        return vec![low];
    }
    let [count, ..] = (more << 6).to_le_bytes();
    let mut bytes = vec![count | low & 0xf];
    bytes.extend_from_slice(&(total >> 4).to_le_bytes()[..more]);
    bytes
}

/// The first length that does not fit into so many bytes beside the first.
fn capacity(more: usize) -> usize {
    if more == 0 {
        1 << 6
    } else {
        1 << (4 + 8 * more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes by section 20.2.4, independently of the encoder.
    fn decode(bytes: &[u8]) -> (usize, usize) {
        let more = usize::from(bytes[0] >> 6);
        if more == 0 {
            return (usize::from(bytes[0] & 0x3f), 1);
        }
        let mut total = usize::from(bytes[0] & 0xf);
        for (index, byte) in bytes[1..=more].iter().enumerate() {
            total |= usize::from(*byte) << (4 + 8 * index);
        }
        (total, 1 + more)
    }

    #[test]
    fn package_lengths_count_themselves_at_every_size() {
        for content in (0..5000).chain([65_000, 66_000, 1 << 20, (1 << 20) + 9]) {
            let bytes = package_length(content);
            assert_eq!(
                decode(&bytes),
                (content + bytes.len(), bytes.len()),
                "{content}"
            );
        }
    }

    #[test]
    fn a_device_is_encoded_as_an_assembler_does() {
        let uid = name(b"_UID", &byte(3));
        assert_eq!(
            device(*b"VR03", &uid),
            [
                0x5b, 0x82, 12, b'V', b'R', b'0', b'3', 8, b'_', b'U', b'I', b'D', 0x0a, 3
            ]
        );
    }
}
