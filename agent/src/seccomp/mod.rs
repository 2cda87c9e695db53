// SPDX-License-Identifier: Apache-2.0
//! From `linux.seccomp` of an OCI spec to a classic BPF program.
//!
//! Compiled by hand, because a spec has one action per rule while the ready-made compiler for Rust has one
//! per filter. Two steps: [`policy`] turns names into numbers and actions into return values, per
//! architecture; [`program`] turns that into instructions. Runs in the agent, once per container; the
//! set-up stage only installs the result.
//!
//! As runc does it: names that this kernel's architecture lacks are skipped, a rule whose action is the
//! default one is dropped, conditions on the same argument are alternatives while those on different ones
//! must all hold, and a system call newer than any that the profile names answers ENOSYS instead of the
//! default error, so that a libc newer than the profile falls back instead of failing.
//! Rules of one system call are tried in the order of the spec.
//!
//! Not supported, with an error: `SCMP_ACT_NOTIFY`, whose listener would be a socket of the host.

mod policy;
mod program;
mod table;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::oci::Seccomp;

/// One BPF instruction, as it travels to the set-up stage.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A compiled filter.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Filter {
    /// What the kernel runs on every system call.
    pub program: Vec<Instruction>,
    /// The kernel's `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
}

/// A profile that cannot become a filter.
#[derive(Debug, Error)]
pub enum SeccompError {
    /// Neither in the OCI specification nor known otherwise.
    #[error("linux.seccomp: action {action} is unknown")]
    Action {
        /// As written in the spec.
        action: String,
    },
    /// It needs a listener on the host.
    #[error("linux.seccomp: action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// Neither in the OCI specification nor known otherwise.
    #[error("linux.seccomp: flag {flag} is unknown or not supported")]
    Flag {
        /// As written in the spec.
        flag: String,
    },
    /// Neither in the OCI specification nor known otherwise.
    #[error("linux.seccomp: operator {operator} is unknown")]
    Operator {
        /// As written in the spec.
        operator: String,
    },
    /// System calls have six arguments.
    #[error("linux.seccomp: argument {index} does not exist, there are 0 to 5")]
    Argument {
        /// As written in the spec.
        index: u64,
    },
    /// The kernel's limit is 4096 instructions.
    #[error("linux.seccomp: the profile needs {len} instructions, the kernel takes {MAX_PROGRAM}")]
    TooLong {
        /// How many it would be.
        len: usize,
    },
}

/// `BPF_MAXINSNS` of linux/bpf_common.h.
const MAX_PROGRAM: usize = 4096;

/// Compiles a profile.
pub fn compile(profile: &Seccomp) -> Result<Filter, SeccompError> {
    let policy = policy::Policy::of(profile)?;
    let program = program::assemble(&policy);
    if program.len() > MAX_PROGRAM {
        return Err(SeccompError::TooLong { len: program.len() });
    }
    Ok(Filter {
        program,
        flags: flags(&profile.flags)?,
    })
}

fn flags(names: &[String]) -> Result<u64, SeccompError> {
    names.iter().try_fold(0, |flags, name| {
        Ok(flags
            | match name.as_str() {
                // The stage has one thread, so there is nobody to synchronise with.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                _ => return Err(SeccompError::Flag { flag: name.clone() }),
            })
    })
}
