// SPDX-License-Identifier: Apache-2.0
//! What a snapshot may be called: a part of a path, and of nothing else.

use std::fmt;
use std::str::FromStr;

use super::SnapshotError;

/// Longest name.
const MAX: usize = 128;

/// A name that is one: lower-case letters, digits, `_`, `-` and `.`, and no `.` in front.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = SnapshotError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
        let good =
            (1..=MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed);
        match good {
            true => Ok(Self(name.to_owned())),
            false => Err(SnapshotError::Name {
                name: name.chars().take(MAX).collect(),
            }),
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        for good in ["a", "0", "web-1.2_x"] {
            assert_eq!(good.parse::<SnapshotName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".new.a",
            "a/b",
            "A",
            "a b",
            "é",
            &"a".repeat(MAX + 1),
        ] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad}");
        }
    }
}
