// SPDX-License-Identifier: Apache-2.0
//! Applies the rules of `cube_tests::tidy` to this tree. Borders fail, aims are printed.

use cube_tests::tidy::crates::Crates;
use cube_tests::tidy::tree::{SourceFile, Tree};
use cube_tests::tidy::{
    Finding, drops, headers, links, manifests, names, shape, unsafe_rooms, words,
};

fn tree() -> Tree {
    Tree::load().expect("the checkout can be read")
}

fn crates(tree: &Tree) -> Crates {
    Crates::load(&tree.root).expect("cargo can describe the workspace")
}

/// Applies a rule to each file and fails with all that it finds.
#[track_caller]
fn hold(rule: impl Fn(&SourceFile) -> Vec<Finding>) {
    none(tree().files.iter().flat_map(rule).collect());
}

#[track_caller]
fn none(findings: Vec<Finding>) {
    let list: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert!(
        list.is_empty(),
        "{} broken\n{}",
        list.len(),
        list.join("\n")
    );
}

#[test]
fn our_crates_use_each_other_as_designed() {
    none(crates(&tree()).our_edges());
}

#[test]
fn foreign_crates_stay_where_they_may_be() {
    let crates = crates(&tree());
    none([crates.foreign_bans(), crates.kept_out()].concat());
}

#[test]
fn manifests_take_lints_and_versions_from_the_workspace() {
    hold(|file| [manifests::lints(file), manifests::versions(file)].concat());
}

#[test]
fn unsafe_code_stays_in_its_rooms() {
    hold(unsafe_rooms::rooms);
}

#[test]
fn files_say_their_licence() {
    hold(headers::licence);
}

#[test]
fn modules_say_what_they_are() {
    hold(headers::description);
}

#[test]
fn files_stay_below_the_border() {
    hold(shape::border);
}

#[test]
fn sizes_beside_their_aims() {
    let tree = tree();
    println!(
        "{}",
        shape::report(tree.rust().filter(|file| !file.is_test()))
    );
}

#[test]
fn names_say_something() {
    hold(names::drawers);
}

#[test]
fn scripts_can_be_executed() {
    hold(names::programs);
}

#[test]
fn dropped_results_have_a_reason() {
    hold(drops::results);
}

#[test]
fn no_test_is_switched_off() {
    hold(drops::ignored_tests);
}

#[test]
fn nothing_is_left_behind() {
    hold(words::rests);
}

#[test]
fn no_word_about_the_workplace() {
    let tree = tree();
    none(
        tree.files
            .iter()
            .flat_map(|file| words::workplace(file, &tree.root))
            .collect(),
    );
}

#[test]
fn links_lead_somewhere() {
    let tree = tree();
    none(
        tree.files
            .iter()
            .flat_map(|file| links::relative(file, &tree))
            .collect(),
    );
}

/// A finding is of use only if its name can be looked up.
#[test]
fn every_rule_is_explained() {
    let tree = tree();
    let style = tree
        .files
        .iter()
        .find(|file| file.path == "STYLE.md")
        .expect("there is a STYLE.md");
    let rules = [
        "both-halves",
        "crate-for-a-border",
        "deps-are-architecture",
        "kept-out",
        "links-lead-somewhere",
        "no-drawers",
        "no-runtime-in-the-vmm",
        "no-silent-drop",
        "no-workplace",
        "nothing-left-behind",
        "one-screen-functions",
        "one-version",
        "prose-at-the-door",
        "rules-are-tests",
        "scripts-run",
        "small-rooms",
        "stable-fmt",
        "two-unsafe-rooms",
    ];
    let unexplained: Vec<_> = rules
        .iter()
        .filter(|rule| !style.text.contains(&format!("`{rule}`")))
        .collect();
    assert!(unexplained.is_empty(), "not in STYLE.md: {unexplained:?}");
}
