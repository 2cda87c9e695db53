// SPDX-License-Identifier: Apache-2.0
//! One corpus of snapshots, many filters.

use proptest::prelude::*;

use super::Filters;
use crate::record::{DraftState, Kind, Labels, SnapshotState, UnixNanos};

fn snapshot(
    key: &str,
    kind: Kind,
    parent: &str,
    labels: &[(&str, &str)],
) -> (String, SnapshotState) {
    let labels: Labels = labels
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    let draft = DraftState {
        key: key.into(),
        kind,
        parent: parent.into(),
        labels,
        created: UnixNanos::now(),
    };
    (key.into(), draft.with_id(1))
}

fn corpus() -> Vec<(String, SnapshotState)> {
    vec![
        snapshot("base", Kind::Committed, "", &[("a.b", "v"), ("plain", "x")]),
        snapshot(
            "default/3/sha256:00ff",
            Kind::Committed,
            "base",
            &[("containerd.io/snapshot.ref", "sha256:00ff")],
        ),
        snapshot("default/4/q1", Kind::Active, "default/3/sha256:00ff", &[]),
        snapshot("view", Kind::View, "base", &[("odd \\ \" é", "two, words")]),
    ]
}

fn check(filters: &[&str], expect: &[usize]) {
    let parsed = Filters::parse(filters).unwrap();
    let found: Vec<usize> = corpus()
        .iter()
        .enumerate()
        .filter(|(_, (key, state))| parsed.pass(key, state))
        .map(|(index, _)| index)
        .collect();
    assert_eq!(found, expect, "{filters:?}");
}

#[test]
fn fields_and_operators() {
    check(&["name==base"], &[0]);
    check(&["name!=base"], &[1, 2, 3]);
    check(&["parent==base"], &[1, 3]);
    check(&["parent==\"\""], &[0]);
    check(&["kind==committed"], &[0, 1]);
    check(&["kind==Committed"], &[]);
    check(&["kind~=act|view"], &[2, 3]);
    check(&["name@=default/"], &[1, 2]);
    check(&["name==default/3/sha256:00ff"], &[1]);
    check(&["nonsense==x"], &[]);
    check(&["nonsense!=x"], &[0, 1, 2, 3]);
}

#[test]
fn labels_with_dots_quotes_and_values_with_commas() {
    check(&["labels.plain"], &[0]);
    check(&["labels.a.b==v"], &[0]);
    check(&["labels.\"a.b\"==v"], &[0]);
    check(
        &["labels.\"containerd.io/snapshot.ref\"==sha256:00ff"],
        &[1],
    );
    check(&["labels.\"odd \\\\ \\\" \\u00e9\"==\"two, words\""], &[3]);
    check(&["labels.plain==y"], &[]);
    check(&["labels"], &[]);
}

#[test]
fn all_of_one_filter_any_of_several() {
    check(&[], &[0, 1, 2, 3]);
    check(&[""], &[0, 1, 2, 3]);
    check(&["kind==committed,parent==base"], &[1]);
    check(&["kind==committed, parent==base"], &[1]);
    check(&["name==base", "kind==view"], &[0, 3]);
    check(&["name==base", ""], &[0, 1, 2, 3]);
}

#[test]
fn regular_expressions_in_three_quotes() {
    check(&["name~=^default/\\d+/"], &[1, 2]);
    check(&["name~=/^default/"], &[1, 2]);
    check(&["name~=|sha256:[0-9a-f]{4}$|,kind==committed"], &[1]);
    check(&["name~=\"^b.s[e]$\""], &[0]);
    check(&["name~=/a,b/"], &[]);
}

#[test]
fn wrong_filters_say_where() {
    for (filter, at) in [
        ("name==base,", 11),
        ("labels.", 7),
        ("name=base", 4),
        ("name==", 6),
        ("name===x", 4),
        ("name==a b", 7),
        ("labels.|foo|==x", 7),
        ("name==\"open", 11),
        ("name==\"bad\\q\"", 11),
        (",", 0),
        ("?", 0),
    ] {
        let error = Filters::parse(&[filter]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("at byte {at}:")),
            "{filter}: {error}"
        );
    }
    for filter in ["name~=[", "name~=x{1000}{1000}{1000}"] {
        let error = Filters::parse(&[filter]).unwrap_err().to_string();
        assert!(error.contains("regular expression"), "{filter}: {error}");
    }
    let long = "x".repeat(20_000);
    assert!(Filters::parse(&[long]).is_err());
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "[a-z.,=!~@\"/|\\\\ éx0-9]{0,40}") {
        if let Ok(filters) = Filters::parse(&[text]) {
            for (key, state) in corpus() {
                prop_assert!(filters.pass(&key, &state) || !filters.pass(&key, &state));
            }
        }
    }

    #[test]
    fn a_quoted_value_is_found_whatever_it_holds(value in "[^\\x00]{0,20}") {
        let quoted: String = value.chars().flat_map(go_escape).collect();
        let (key, state) = snapshot("k", Kind::Active, "", &[("l", &value)]);
        let filter = format!("labels.l==\"{quoted}\"");
        prop_assert!(Filters::parse(&[filter]).unwrap().pass(&key, &state));
    }
}

/// Escapes as containerd's clients do (`strconv.Quote`).
fn go_escape(c: char) -> Vec<char> {
    match c {
        '"' | '\\' => vec!['\\', c],
        c if c.is_ascii_graphic() || c == ' ' => vec![c],
        c => format!("\\U{:08x}", u32::from(c)).chars().collect(),
    }
}
