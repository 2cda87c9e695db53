// SPDX-License-Identifier: Apache-2.0
//! What became of the cases. A skipped one has not passed.

use std::time::Duration;

/// Of what a failed case said, so much from either end is said again at the end of all: a log may be cut to
/// its last lines.
const REASON_LINES: usize = 6;

/// Names by outcome.
#[derive(Debug, Default)]
pub struct Tally {
    passed: Vec<String>,
    failed: Vec<Failure>,
    skipped: Vec<String>,
}

#[derive(Debug)]
struct Failure {
    name: String,
    reason: String,
}

impl Tally {
    /// Counts a case and gives its line.
    pub fn pass(&mut self, name: &str, took: Duration) -> String {
        self.passed.push(name.into());
        format!("test {name} ... ok ({:.1} s)", took.as_secs_f64())
    }

    /// The same for one that failed: why, and what else may help to understand it.
    pub fn fail(&mut self, name: &str, took: Duration, why: &str, logs: &str) -> String {
        self.failed.push(Failure {
            name: name.into(),
            reason: ends(why, REASON_LINES),
        });
        format!(
            "test {name} ... FAILED ({:.1} s)\n{why}\n{logs}",
            took.as_secs_f64()
        )
    }

    /// The same for one that cannot run here.
    pub fn skip(&mut self, name: &str, reason: &str) -> String {
        self.skipped.push(name.into());
        format!("test {name} ... skipped, {reason}")
    }

    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }

    /// The closing lines, in libtest's form, so that whoever counts tests can count these.
    pub fn closing(&self, took: Duration) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        format!(
            "{}\ntest result: {}. {} passed; {} failed; {} ignored; finished in {:.0} s",
            self.failures(),
            if self.is_good() { "ok" } else { "FAILED" },
            passed.len(),
            failed.len(),
            skipped.len(),
            took.as_secs_f64()
        )
    }

    /// Every failure with its reason, then all their names.
    fn failures(&self) -> String {
        if self.is_good() {
            return String::new();
        }
        let mut text = "\nfailures:\n".to_owned();
        for Failure { name, reason } in &self.failed {
            text += &format!("\n---- {name} stdout ----\n{reason}\n");
        }
        text += "\nfailures:\n";
        for Failure { name, .. } in &self.failed {
            text += &format!("    {name}\n");
        }
        text
    }
}

/// The first and the last lines of a text, and a word about those between.
fn ends(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    if all.len() <= 2 * lines {
        return all.join("\n");
    }
    let (head, tail) = (&all[..lines], &all[all.len() - lines..]);
    let between = all.len() - 2 * lines;
    let (head, tail) = (head.join("\n"), tail.join("\n"));
    format!("{head}\n({between} more lines above)\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lines_and_counts_agree() {
        let mut tally = Tally::default();
        assert_eq!(tally.pass("a", SECOND), "test a ... ok (1.0 s)");
        assert_eq!(tally.skip("b", "no KVM"), "test b ... skipped, no KVM");
        let end = "test result: ok. 1 passed; 0 failed; 1 ignored; finished in 1 s";
        assert_eq!(tally.closing(SECOND), format!("\n{end}"));
    }

    #[test]
    fn one_failure_fails_all_and_is_told_again_at_the_end() {
        let mut tally = Tally::default();
        assert_eq!(
            tally.fail("c", SECOND, "why", "a log"),
            "test c ... FAILED (1.0 s)\nwhy\na log"
        );
        assert!(!tally.is_good());
        let end = "test result: FAILED. 0 passed; 1 failed; 0 ignored; finished in 1 s";
        assert_eq!(
            tally.closing(SECOND),
            format!("\nfailures:\n\n---- c stdout ----\nwhy\n\nfailures:\n    c\n\n{end}")
        );
    }

    #[test]
    fn a_long_reason_is_cut_in_its_middle() {
        assert_eq!(ends("1\n2\n3\n4", 2), "1\n2\n3\n4");
        assert_eq!(ends("1\n2\n3\n4", 1), "1\n(2 more lines above)\n4");
    }
}
