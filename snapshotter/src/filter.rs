// SPDX-License-Identifier: Apache-2.0
//! Filters of `List`, in containerd's filter language.
//!
//! ```text
//! filter   := selector ("," selector)*        all selectors must match
//! selector := path [operator value]           without an operator: the field is present
//! path     := field ("." field)*              name, parent, kind, labels.<key>
//! field    := [A-Za-z0-9_-]+ | "quoted"
//! operator := "==" | "!=" | "~=" | "@="       equal, unequal, regular expression, contains
//! value    := a run without comma or space | "quoted" | after "~=" also /quoted/ or |quoted|
//! ```
//!
//! The empty filter matches everything; of several filters one must match. Two differences from
//! containerd: a regular expression that cannot be compiled is an error here and a filter that
//! matches nothing there, and its dialect is that of `regex-lite`, which has no Unicode classes.

use regex_lite::Regex;

use crate::record::{Kind, SnapshotState};

mod parse;

pub use parse::FilterError;

/// What a `List` asks for: a snapshot passes if any of its filters matches.
#[derive(Debug)]
pub struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter(Vec<Selector>);

#[derive(Debug)]
struct Selector {
    field: Field,
    test: Test,
}

/// A field path that may be asked for. A path that names nothing is legal and never present.
#[derive(Debug, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
    Unknown,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    Contains(String),
}

impl Filters {
    /// Parses the filters of one request.
    ///
    /// # Errors
    /// The first filter that cannot be parsed, with the place.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, FilterError> {
        let filters = texts.iter().map(|text| parse::filter(text.as_ref()));
        filters.collect::<Result<_, _>>().map(Self)
    }

    /// Whether the snapshot `key` passes.
    #[must_use]
    pub fn pass(&self, key: &str, state: &SnapshotState) -> bool {
        let matches = |filter: &Filter| filter.0.iter().all(|s| s.matches(key, state));
        self.0.is_empty() || self.0.iter().any(matches)
    }
}

impl Selector {
    fn matches(&self, key: &str, state: &SnapshotState) -> bool {
        let found = self.field.of(key, state);
        let value = found.unwrap_or_default();
        match &self.test {
            Test::Present => found.is_some(),
            Test::Equal(wanted) => found == Some(wanted),
            Test::NotEqual(unwanted) => value != unwanted,
            Test::Matches(regex) => regex.is_match(value),
            Test::Contains(part) => value.contains(part),
        }
    }
}

impl Field {
    fn from_path(path: &[String]) -> Self {
        match path {
            [name, ..] if name == "name" => Self::Name,
            [name, ..] if name == "parent" => Self::Parent,
            [name, ..] if name == "kind" => Self::Kind,
            [name, rest @ ..] if name == "labels" => Self::Label(rest.join(".")),
            _ => Self::Unknown,
        }
    }

    fn of<'a>(&self, key: &'a str, state: &'a SnapshotState) -> Option<&'a str> {
        match self {
            Self::Name => Some(key),
            Self::Parent => Some(&state.parent),
            Self::Kind => Some(Kind::name(state.kind)),
            Self::Label(label) => state.labels.get(label).map(String::as_str),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests;
