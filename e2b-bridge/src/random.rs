// SPDX-License-Identifier: Apache-2.0
//! Names and secrets that nobody can guess, from the kernel's generator.

use std::fmt::Write as _;
use std::io;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// As many hexadecimal digits as asked for, each of four random bits.
pub fn hex(digits: usize) -> io::Result<String> {
    let mut bytes = vec![0; digits.div_ceil(2)];
    fill(&mut bytes)?;
    let mut text = bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    });
    text.truncate(digits);
    Ok(text)
}

fn fill(mut rest: &mut [u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Ok(count) => rest = &mut rest[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_counted_and_differ() {
        let (one, other) = (hex(21).unwrap(), hex(21).unwrap());
        assert_eq!(one.len(), 21);
        assert!(one.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }
}
