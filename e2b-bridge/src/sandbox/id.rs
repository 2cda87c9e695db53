// SPDX-License-Identifier: Apache-2.0
//! Names of sandboxes.

use std::fmt;
use std::io;

use crate::random;

/// Most characters of a name: a label of a host name has 63, and the port and a dash stand before it.
const MAX: usize = 57;
const RANDOM_DIGITS: usize = 19;

/// The name of a sandbox: lower-case letters and digits, because it becomes part of a host name, behind a dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId(String);

impl SandboxId {
    /// One that nobody has.
    pub fn random() -> io::Result<Self> {
        Ok(Self(format!("i{}", random::hex(RANDOM_DIGITS)?)))
    }

    /// Reads a name; SDKs before 1.1 say `<name>-<client>`.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.split('-').next().unwrap_or_default();
        let is_name = (1..=MAX).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        is_name.then(|| Self(name.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for (text, name) in [
            ("i1a2b", Some("i1a2b")),
            ("i1a2b-cube", Some("i1a2b")),
            ("", None),
            ("-x", None),
            ("I1", None),
            ("../x", None),
            ("a/b", None),
        ] {
            let read = SandboxId::parse(text);
            assert_eq!(read.as_ref().map(SandboxId::as_str), name, "{text}");
        }
        assert_eq!(SandboxId::parse(&"a".repeat(MAX + 1)), None);
    }

    #[test]
    fn a_random_name_is_a_name() {
        let id = SandboxId::random().unwrap();
        assert_eq!(SandboxId::parse(id.as_str()), Some(id));
    }
}
