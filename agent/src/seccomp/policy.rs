// SPDX-License-Identifier: Apache-2.0
//! What a profile means, in numbers: per machine, which return value for which system call.

use std::collections::BTreeMap;

use super::SeccompError;
use super::table;
use crate::oci::{Seccomp, SyscallArg, SyscallRule};

/// The instruction sets that an x86-64 kernel runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Machine {
    /// 64-bit.
    X86_64,
    /// 32-bit, through `int 0x80` or `sysenter`.
    X86,
}

/// A profile, resolved.
#[derive(Debug)]
pub struct Policy {
    /// For a system call that no rule matches.
    pub default: u32,
    /// Native code always; 32-bit code if the profile lists it, else it is killed.
    pub machines: Vec<(Machine, Calls)>,
    /// x32 code finds no such system calls, as on the guest's kernel, instead of being killed.
    pub tolerate_x32: bool,
}

/// Rules for the system calls of one machine.
#[derive(Debug, Default)]
pub struct Calls {
    /// By number; in a list the first match wins.
    pub rules: BTreeMap<u32, Vec<Rule>>,
    /// Calls with a higher number answer ENOSYS; `None`: no such limit.
    pub newest: Option<u32>,
}

/// One line of the list of a system call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// All must hold; empty: always.
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_*` with its data.
    pub answer: u32,
}

/// A comparison with one argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    /// How.
    pub test: Test,
}

/// Unsigned comparison of a 64-bit argument with a constant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Test {
    /// arg == value
    Equal(u64),
    /// arg != value
    NotEqual(u64),
    /// arg < value
    Less(u64),
    /// arg <= value
    LessOrEqual(u64),
    /// arg > value
    Greater(u64),
    /// arg >= value
    GreaterOrEqual(u64),
    /// (arg & mask) == value
    Masked {
        /// The bits that count.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

/// Answer to a system call that does not exist.
pub const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

impl Policy {
    /// Resolves a profile for this kernel.
    pub fn of(profile: &Seccomp) -> Result<Self, SeccompError> {
        let default = answer(&profile.default_action, profile.default_errno_ret)?;
        let lists = |name: &str| profile.architectures.iter().any(|arch| arch == name);
        let mut machines = vec![Machine::X86_64];
        if lists("SCMP_ARCH_X86") {
            machines.push(Machine::X86);
        }
        Ok(Self {
            default,
            machines: machines
                .into_iter()
                .map(|machine| Ok((machine, calls(profile, machine, default)?)))
                .collect::<Result<_, SeccompError>>()?,
            tolerate_x32: lists("SCMP_ARCH_X32"),
        })
    }
}

fn calls(profile: &Seccomp, machine: Machine, default: u32) -> Result<Calls, SeccompError> {
    let mut calls = Calls::default();
    for rule in &profile.syscalls {
        let answer = answer(&rule.action, rule.errno_ret)?;
        let alternatives = alternatives(rule)?;
        for number in rule
            .names
            .iter()
            .filter_map(|name| table::number(name, machine))
        {
            calls.newest = calls.newest.max(Some(number));
            if answer == default {
                continue;
            }
            let list = calls.rules.entry(number).or_default();
            list.extend(alternatives.iter().map(|conditions| Rule {
                conditions: conditions.clone(),
                answer,
            }));
        }
    }
    let permissive = [
        libc::SECCOMP_RET_ALLOW,
        libc::SECCOMP_RET_LOG,
        libc::SECCOMP_RET_TRACE,
    ];
    if permissive.contains(&(default & libc::SECCOMP_RET_ACTION_FULL)) {
        calls.newest = None;
    }
    Ok(calls)
}

/// The sets of conditions under which a rule matches, one of which is enough.
fn alternatives(rule: &SyscallRule) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let conditions = rule
        .args
        .iter()
        .map(condition)
        .collect::<Result<Vec<_>, _>>()?;
    let mut seen = [false; 6];
    let repeats = conditions
        .iter()
        .any(|condition| std::mem::replace(&mut seen[usize::from(condition.argument)], true));
    Ok(if repeats {
        conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect()
    } else {
        vec![conditions]
    })
}

fn condition(arg: &SyscallArg) -> Result<Condition, SeccompError> {
    let argument = u8::try_from(arg.index)
        .ok()
        .filter(|index| *index < 6)
        .ok_or(SeccompError::Argument { index: arg.index })?;
    let test = match arg.op.as_str() {
        "SCMP_CMP_EQ" => Test::Equal(arg.value),
        "SCMP_CMP_NE" => Test::NotEqual(arg.value),
        "SCMP_CMP_LT" => Test::Less(arg.value),
        "SCMP_CMP_LE" => Test::LessOrEqual(arg.value),
        "SCMP_CMP_GT" => Test::Greater(arg.value),
        "SCMP_CMP_GE" => Test::GreaterOrEqual(arg.value),
        "SCMP_CMP_MASKED_EQ" => Test::Masked {
            mask: arg.value,
            value: arg.value_two,
        },
        _ => {
            return Err(SeccompError::Operator {
                operator: arg.op.clone(),
            });
        }
    };
    Ok(Condition { argument, test })
}

fn answer(action: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    // The kernel keeps sixteen bits of data; EPERM is the OCI specification's default.
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned()) & libc::SECCOMP_RET_DATA;
    Ok(match action {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | errno,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | errno,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_NOTIFY" => return Err(SeccompError::Notify),
        _ => {
            return Err(SeccompError::Action {
                action: action.to_owned(),
            });
        }
    })
}
