// SPDX-License-Identifier: Apache-2.0
//! Rules that a program can judge, so that nobody has to remember them (`rules-are-tests`).
//!
//! Each rule is a pure function from a source file (or the tree, or cargo's view of the packages) to
//! findings, with an example that breaks it beside it; `tests/tidy.rs` applies all to the real tree.
//! A finding names its rule by the short name under which STYLE.md explains it.
//!
//! Not here: what rustc and clippy already hold (see `[workspace.lints]`), and taste.

pub mod code;
pub mod crates;
pub mod drops;
pub mod headers;
pub mod links;
pub mod manifests;
pub mod names;
pub mod shape;
pub mod tree;
pub mod unsafe_rooms;
pub mod words;

use std::fmt;

/// One broken rule at one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The rule's short name, as in STYLE.md.
    pub rule: &'static str,
    /// A path, with a line number where there is one.
    pub place: String,
    /// What is wrong and, if it is not obvious, what to do.
    pub why: String,
}

impl Finding {
    /// A finding in a line of a file, counted from one.
    pub fn at(rule: &'static str, path: &str, line: usize, why: impl Into<String>) -> Self {
        Self {
            rule,
            place: format!("{path}:{line}"),
            why: why.into(),
        }
    }

    /// A finding about a whole file, or about a crate.
    pub fn about(rule: &'static str, place: &str, why: impl Into<String>) -> Self {
        Self {
            rule,
            place: place.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}: {}", self.rule, self.place, self.why)
    }
}
