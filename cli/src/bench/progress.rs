// SPDX-License-Identifier: Apache-2.0
//! What a person who waits sees on standard error: one line that changes, or now and then a new one.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// What is over sooner needs no word.
const ON_A_TERMINAL: Duration = Duration::from_secs(1);
/// A log is read afterwards.
const IN_A_LOG: Duration = Duration::from_secs(10);

/// Says how far something is.
#[derive(Debug)]
pub struct Progress {
    what: String,
    begun: Instant,
    said: Instant,
    terminal: bool,
    silent: bool,
    open_line: bool,
}

impl Progress {
    /// For something that begins now.
    pub fn new(what: &str) -> Self {
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            begun: now,
            said: now,
            terminal: io::stderr().is_terminal(),
            silent: false,
            open_line: false,
        }
    }

    /// For tests.
    #[cfg(test)]
    pub fn silent() -> Self {
        let mut progress = Self::new("");
        progress.silent = true;
        progress
    }

    /// It goes on; the words are only made if it is time for some.
    pub fn tick(&mut self, words: impl FnOnce() -> String) {
        let pause = if self.terminal {
            ON_A_TERMINAL
        } else {
            IN_A_LOG
        };
        if self.said.elapsed() >= pause && !self.silent {
            self.said = Instant::now();
            self.say(&words(), !self.terminal);
        }
    }

    /// Something that must be seen.
    pub fn note(&mut self, words: &str) {
        if !self.silent {
            self.say(words, true);
        }
    }

    fn say(&mut self, words: &str, keep: bool) {
        let (what, seconds) = (&self.what, self.begun.elapsed().as_secs());
        let again = if self.terminal { "\r\x1b[K" } else { "" };
        let end = if keep { "\n" } else { "" };
        let mut out = io::stderr().lock();
        // With no standard error left there is nobody to tell.
        write!(out, "{again}{what}: {words} ({seconds} s){end}").ok();
        out.flush().ok();
        self.open_line = !keep;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open_line {
            write!(io::stderr(), "\r\x1b[K").ok(); // as above
        }
    }
}
