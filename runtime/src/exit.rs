// SPDX-License-Identifier: Apache-2.0
//! How a VMM ended.

use std::fmt;
use std::time::SystemTime;

use cube_vmm::exit::ExitReason;

/// The end of a machine, as every waiter sees it.
#[derive(Clone, Debug)]
pub struct VmmExit {
    /// What ended it.
    pub cause: Cause,
    /// When the runtime saw it end.
    pub at: SystemTime,
    /// The last lines of its log and of the guest's console; empty if it ended as asked.
    pub last_words: String,
}

/// What ended a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The VMM gave a reason with its exit code.
    Reason(ExitReason),
    /// It exited with a code that this version does not know.
    Code(i32),
    /// A signal from somebody else.
    Signal(i32),
    /// The host ran out of memory and its kernel chose the VMM.
    HostOutOfMemory,
    /// The runtime ended it: the text says why.
    Stopped(&'static str),
}

impl VmmExit {
    /// Whether the machine ended because it was asked to.
    pub fn is_orderly(&self) -> bool {
        matches!(self.cause, Cause::Reason(ExitReason::Stopped))
    }
}

impl fmt::Display for VmmExit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(out)?;
        if !self.last_words.is_empty() {
            write!(out, "; last words: {}", self.last_words)?;
        }
        Ok(())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Reason(reason) => reason.fmt(out),
            Cause::Code(code) => write!(out, "cube-vmm exited with the unknown code {code}"),
            Cause::Signal(signal) => write!(out, "cube-vmm was killed by signal {signal}"),
            Cause::HostOutOfMemory => {
                out.write_str("cube-vmm was killed because the host ran out of memory")
            }
            Cause::Stopped(why) => write!(out, "the runtime ended the machine: {why}"),
        }
    }
}
