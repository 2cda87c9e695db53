// SPDX-License-Identifier: Apache-2.0
//! Sizes as people type them (`10GiB`), parsed once at the command line.

use std::fmt;
use std::str::FromStr;

/// A size in bytes, a whole number of mebibytes.
///
/// Whole mebibytes, because image and pool sizes are handed to mkfs programs, which would round
/// anything smaller in their own ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

const MIB: u64 = 1 << 20;

/// Suffixes and their factors; a bare number is bytes.
const UNITS: [(&str, u64); 7] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", MIB),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", MIB),
    ("", 1),
];

/// Why a size was refused.
#[derive(Debug, thiserror::Error)]
pub enum SizeError {
    /// The text is not a number with a known suffix.
    #[error("{text:?} is not a size: write a number with MiB, GiB or TiB, such as 10GiB")]
    Syntax {
        /// What was typed.
        text: String,
    },
    /// The number does not fit, or is not a whole number of mebibytes.
    #[error("{text:?} is not a whole number of MiB between 1MiB and 8388608TiB")]
    Range {
        /// What was typed.
        text: String,
    },
}

impl ByteSize {
    /// `count` mebibytes.
    #[must_use]
    pub const fn mib(count: u32) -> Self {
        Self(count as u64 * MIB)
    }

    /// `count` gibibytes.
    #[must_use]
    pub const fn gib(count: u32) -> Self {
        Self(count as u64 * (1 << 30))
    }

    /// The largest size that is not above `bytes`.
    #[must_use]
    pub const fn at_most(bytes: u64) -> Self {
        Self(bytes - bytes % MIB)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let suffix = &text[digits.len()..];
        let factor = UNITS.iter().find(|(name, _)| *name == suffix);
        let (Some((_, factor)), Ok(count)) = (factor, digits.parse::<u64>()) else {
            return Err(SizeError::Syntax { text: text.into() });
        };
        match count.checked_mul(*factor) {
            Some(bytes) if bytes > 0 && bytes % MIB == 0 => Ok(Self(bytes)),
            _ => Err(SizeError::Range { text: text.into() }),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes => write!(f, "{}MiB", bytes / MIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_typed() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("512MiB", 512 << 20),
            ("2T", 2 << 40),
            ("1048576", 1 << 20),
            ("3M", 3 << 20),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn refused_sizes_say_what_to_write() {
        for text in ["", "GiB", "10GB", "-1G", "1.5G", "0G", "1000", "99999999T"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn shown_in_the_largest_whole_unit() {
        assert_eq!(ByteSize::gib(10).to_string(), "10GiB");
        assert_eq!(ByteSize::at_most((320 << 20) + 5).to_string(), "320MiB");
    }
}
