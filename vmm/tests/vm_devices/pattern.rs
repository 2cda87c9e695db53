// SPDX-License-Identifier: Apache-2.0
//! Bytes whose place in a stream can be told, written and checked by both halves.

use std::io::{self, Read, Write};

/// FNV-1a over words, to compare much with little.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        (hash ^ u64::from_le_bytes(padded)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Byte `at` of every stream.
pub fn pattern(at: u64) -> u8 {
    u8::try_from((at % 65_521) * 31 % 256).unwrap()
}

/// The stream's first bytes, from which any of its parts can be cut.
fn period() -> Vec<u8> {
    (0..65_521 * 2).map(pattern).collect()
}

pub fn write_pattern(to: &mut impl Write, total: u64) {
    let period = period();
    let mut at = 0;
    while at < total {
        let len = (total - at).min(60_000);
        let start = usize::try_from(at % 65_521).unwrap();
        to.write_all(&period[start..start + usize::try_from(len).unwrap()])
            .unwrap();
        at += len;
    }
}

/// Checks every byte up to the end and counts them.
pub fn read_pattern(from: &mut impl Read) -> io::Result<u64> {
    let period = period();
    let mut buffer = vec![0; 60_000];
    let mut at = 0;
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(at);
        }
        let start = usize::try_from(at % 65_521).unwrap();
        assert!(
            buffer[..len] == period[start..start + len],
            "wrong bytes near {at}"
        );
        at += len as u64;
    }
}
