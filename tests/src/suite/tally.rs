// SPDX-License-Identifier: Apache-2.0
//! What became of the cases. A skipped one has not passed.

use std::time::Duration;

/// Names by outcome.
#[derive(Debug, Default)]
pub struct Tally {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Counts a case and gives its line.
    pub fn pass(&mut self, name: &str, took: Duration) -> String {
        self.passed.push(name.into());
        format!("test {name} ... ok ({:.1} s)", took.as_secs_f64())
    }

    /// The same for one that failed, with what there is to be said about it.
    pub fn fail(&mut self, name: &str, took: Duration, said: &str) -> String {
        self.failed.push(name.into());
        format!(
            "test {name} ... FAILED ({:.1} s)\n{said}",
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
        let failures = match self.is_good() {
            true => String::new(),
            false => format!("\nfailures:\n    {}\n", failed.join("\n    ")),
        };
        format!(
            "{failures}\ntest result: {}. {} passed; {} failed; {} ignored; finished in {:.0} s",
            if self.is_good() { "ok" } else { "FAILED" },
            passed.len(),
            failed.len(),
            skipped.len(),
            took.as_secs_f64()
        )
    }
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
    fn one_failure_fails_all_and_is_named() {
        let mut tally = Tally::default();
        assert_eq!(
            tally.fail("c", SECOND, "why"),
            "test c ... FAILED (1.0 s)\nwhy"
        );
        assert!(!tally.is_good());
        let closing = tally.closing(SECOND);
        assert!(closing.starts_with("\nfailures:\n    c\n"), "{closing}");
        assert!(
            closing.contains("test result: FAILED. 0 passed; 1 failed"),
            "{closing}"
        );
    }
}
