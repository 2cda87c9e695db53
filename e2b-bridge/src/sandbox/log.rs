// SPDX-License-Identifier: Apache-2.0
//! What the processes of a sandbox said, as far as it passed through this program. In memory, bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::moment::Moment;

/// Lines that are kept; older ones go.
const MAX_LINES: usize = 1000;
/// Characters of a line that are kept.
const MAX_LINE: usize = 1000;

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What was printed.
    Info,
    /// What was printed as an error.
    Error,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it came.
    pub at: Moment,
    /// How important it is.
    pub level: Level,
    /// Who said it: `envd` about processes, else the process's command.
    pub logger: String,
    /// What.
    pub message: String,
}

/// The newest lines of a sandbox.
#[derive(Debug, Default)]
pub struct SandboxLog(Mutex<VecDeque<LogLine>>);

impl SandboxLog {
    /// Adds what was said: one entry for each line.
    pub fn add(&self, at: Moment, level: Level, logger: &str, text: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.lines().filter(|line| !line.is_empty()) {
            if lines.len() == MAX_LINES {
                lines.pop_front();
            }
            lines.push_back(LogLine {
                at,
                level,
                logger: logger.into(),
                message: line.chars().take(MAX_LINE).collect(),
            });
        }
    }

    /// All that is kept, the oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_cut() {
        let log = SandboxLog::default();
        log.add(Moment(1), Level::Error, "sh", "a\n\nb\n");
        let messages = |log: &SandboxLog| -> Vec<String> {
            log.lines().into_iter().map(|line| line.message).collect()
        };
        assert_eq!(messages(&log), ["a", "b"]);
        log.add(Moment(2), Level::Info, "sh", &"x".repeat(MAX_LINE + 1));
        assert_eq!(messages(&log)[2].len(), MAX_LINE);
        for _ in 0..MAX_LINES {
            log.add(Moment(3), Level::Info, "sh", "y");
        }
        assert_eq!(messages(&log).len(), MAX_LINES);
        assert_eq!(messages(&log)[0], "y");
    }
}
