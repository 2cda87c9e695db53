// SPDX-License-Identifier: Apache-2.0
//! Errors that disappear and tests that do not run (`no-silent-drop`, `both-halves`).

use std::collections::BTreeSet;

use super::Finding;
use super::code::{production, without_words};
use super::tree::SourceFile;

/// How far above a dropped result its reason may stand: right above, or above the line of a function.
const REACH: usize = 2;

/// A dropped result has its reason in a comment beside it or above; one comment covers a run of them.
pub fn results(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() || file.is_test() {
        return Vec::new();
    }
    let text = production(&file.text);
    let code = without_words(text);
    let lines: Vec<_> = text.lines().collect();
    let drops = dropping_lines(&code);
    let has_comment = |at: usize| {
        lines
            .get(at)
            .is_some_and(|line| line.contains("// ") || line.contains("/// "))
    };
    let is_explained = |at: usize| {
        let first = (0..=at)
            .rev()
            .take_while(|line| drops.contains(line))
            .last()
            .unwrap_or(at);
        has_comment(at) || (first.saturating_sub(REACH)..first).any(has_comment)
    };
    drops
        .iter()
        .filter(|at| !is_explained(**at))
        .map(|at| {
            let why = "a result is dropped without a comment that says why";
            Finding::at("no-silent-drop", &file.path, at + 1, why)
        })
        .collect()
}

/// The lines, counted from zero, of the two forms of dropping a result that the compiler accepts.
fn dropping_lines(code: &str) -> BTreeSet<usize> {
    let line_of = |at: usize| code[..at].matches('\n').count();
    let ignored = code
        .match_indices("let _ =")
        .filter(|(at, _)| !code[*at..].starts_with("let _ =="));
    let turned_into_nothing = code.match_indices(".ok();").filter(|(at, _)| {
        let start = code[..*at].rfind([';', '{', '}']).map_or(0, |end| end + 1);
        let statement = code[start..*at].trim_start();
        !statement.contains(" = ") && !statement.starts_with("return")
    });
    ignored
        .chain(turned_into_nothing)
        .map(|(at, _)| line_of(at))
        .collect()
}

/// A test that cannot run says so and is counted; it is not switched off.
pub fn ignored_tests(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let code = without_words(&file.text);
    let lines = code.lines().enumerate();
    lines
        .filter(|(_, line)| line.trim_start().starts_with(concat!("#[", "ignore")))
        .map(|(at, _)| {
            Finding::at(
                "both-halves",
                &file.path,
                at + 1,
                "a test that cannot run prints a skip instead",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, findings: usize) {
        let found = results(&SourceFile::new(path, text));
        assert_eq!(found.len(), findings, "{path}: {text}");
    }

    #[test]
    fn a_result_dropped_without_a_reason_is_found() {
        check("a/src/b.rs", "fn f() {\n    let _ = g();\n}\n", 1);
        check("a/src/b.rs", "    let _ =\n        g();\n", 1);
        check("a/src/b.rs", "    g().ok();\n", 1);
    }

    #[test]
    fn a_reason_beside_or_above_is_enough() {
        check("a/src/b.rs", "    let _ = g(); // gone\n", 0);
        check("a/src/b.rs", "    // gone\n    g().ok();\n", 0);
        let run = "    // gone\n    g().ok();\n    h().ok();\n    i().ok();\n";
        check("a/src/b.rs", run, 0);
        let function = "/// Nothing to be done.\nfn f() {\n    g().ok();\n}\n";
        check("a/src/b.rs", function, 0);
    }

    #[test]
    fn a_result_that_is_used_is_not_dropped() {
        check(
            "a/src/b.rs",
            "    let x = g().ok();\n    let _h = h();\n",
            0,
        );
        check("a/src/b.rs", "    let x = g()\n        .ok();\n", 0);
    }

    #[test]
    fn tests_may_drop_what_they_like() {
        check("a/tests/b.rs", "    let _ = g();\n", 0);
        let inline = "#[cfg(test)]\nmod tests {\n    let _ = g();\n}\n";
        check("a/src/b.rs", inline, 0);
    }

    #[test]
    fn a_test_that_is_switched_off_is_found() {
        for (text, findings) in [
            (concat!("#[test]\n#[", "ignore]\nfn f() {}\n"), 1),
            (concat!("// #[", "ignore]\n"), 0),
        ] {
            let found = ignored_tests(&SourceFile::new("a.rs", text));
            assert_eq!(found.len(), findings, "{text}");
        }
    }
}
