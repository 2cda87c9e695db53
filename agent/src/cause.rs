// SPDX-License-Identifier: Apache-2.0
//! The kernel's answer as the last link of an error chain, in the words that users of other runtimes know:
//! `no such file or directory`, without a capital letter and without the number.

use std::fmt;
use std::io;

/// Why a system call failed.
#[derive(Debug)]
pub struct Cause(io::Error);

impl Cause {
    /// For failures that have no error number.
    pub fn new(text: &'static str) -> Self {
        Self(io::Error::other(text))
    }

    /// To tell cases apart.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<rustix::io::Errno> for Cause {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.into())
    }
}

impl std::error::Error for Cause {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut letters = text.chars();
        match letters.next() {
            Some(first) => write!(f, "{}{}", first.to_lowercase(), letters.as_str()),
            None => Ok(()),
        }
    }
}

/// An error and what caused it, in one line: `cannot mount tmpfs on /x: no space left on device`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn error_numbers_read_as_in_other_runtimes() {
        for (errno, text) in [
            (Errno::NOENT, "no such file or directory"),
            (Errno::NOEXEC, "exec format error"),
            (Errno::ACCESS, "permission denied"),
        ] {
            assert_eq!(Cause::from(errno).to_string(), text);
        }
        assert_eq!(Cause::new("end of file").to_string(), "end of file");
    }
}
