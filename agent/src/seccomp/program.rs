// SPDX-License-Identifier: Apache-2.0
//! From a policy to instructions.
//!
//! ```text
//! load architecture
//! native?  -> load number; x32 bit? -> refuse; search tree over numbers
//! 32-bit?  -> load number;                     search tree over numbers
//! else     -> kill
//! ```
//! A leaf of a tree is a return value, or the list of conditions of one system call. Neighbouring numbers
//! with the same answer share a leaf, so a usual profile is a tree about seven comparisons deep.
//! The layout of what a filter sees is `struct seccomp_data` (linux/seccomp.h).

use std::ops::Range;

use super::Instruction;
use super::policy::{Calls, Condition, Machine, NO_SUCH_CALL, Policy, Rule, Test};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_NOT_LESS: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Set in the number of every x32 system call (asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;

impl Machine {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    pub fn audit_code(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
        }
    }
}

/// The whole program.
pub fn assemble(policy: &Policy) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD, ARCHITECTURE)];
    for (machine, calls) in &policy.machines {
        let mut section = vec![plain(LOAD, NUMBER)];
        if *machine == Machine::X86_64 {
            let x32 = if policy.tolerate_x32 {
                NO_SUCH_CALL
            } else {
                libc::SECCOMP_RET_KILL_PROCESS
            };
            section.push(branch(JUMP_NOT_LESS, X32_BIT, 0, 1));
            section.push(plain(RETURN, x32));
        }
        section.extend(tree(&leaves(calls, policy.default)));
        program.push(branch(JUMP_EQUAL, machine.audit_code(), 1, 0));
        program.push(plain(JUMP, distance(section.len())));
        program.extend(section);
    }
    program.push(plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// What happens to the system calls from `first` up to the next leaf.
struct Leaf {
    first: u32,
    code: Vec<Instruction>,
}

fn leaves(calls: &Calls, default: u32) -> Vec<Leaf> {
    let above = if calls.newest.is_some() {
        NO_SUCH_CALL
    } else {
        default
    };
    let mut leaves = vec![Leaf {
        first: 0,
        code: vec![plain(RETURN, default)],
    }];
    for (&number, rules) in &calls.rules {
        leaves.push(Leaf {
            first: number,
            code: list(rules, default),
        });
        // Overwritten below if the next number has rules of its own.
        leaves.push(Leaf {
            first: number + 1,
            code: vec![plain(RETURN, default)],
        });
    }
    if let Some(newest) = calls.newest {
        leaves.push(Leaf {
            first: newest + 1,
            code: vec![plain(RETURN, above)],
        });
    }
    // Of two leaves with the same start the later one counts; equal neighbours become one.
    let mut merged: Vec<Leaf> = Vec::with_capacity(leaves.len());
    for leaf in leaves {
        if merged.last().is_some_and(|last| last.first == leaf.first) {
            merged.pop();
        }
        if merged.last().is_none_or(|last| last.code != leaf.code) {
            merged.push(leaf);
        }
    }
    merged
}

/// A balanced search tree; the accumulator holds the number.
fn tree(leaves: &[Leaf]) -> Vec<Instruction> {
    match leaves {
        [] => Vec::new(),
        [leaf] => leaf.code.clone(),
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let low_code = tree(low);
            let mut code = match u8::try_from(low_code.len()) {
                Ok(skip) => vec![branch(JUMP_NOT_LESS, high[0].first, skip, 0)],
                // A conditional jump reaches 255 instructions, an unconditional one as far as needed.
                Err(_) => vec![
                    branch(JUMP_NOT_LESS, high[0].first, 0, 1),
                    plain(JUMP, distance(low_code.len())),
                ],
            };
            code.extend(low_code);
            code.extend(tree(high));
            code
        }
    }
}

/// The rules of one system call, first match first.
fn list(rules: &[Rule], default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        code.extend(one_rule(rule));
        if rule.conditions.is_empty() {
            return code;
        }
    }
    code.push(plain(RETURN, default));
    code
}

/// Built from its end, so that every condition knows how far away the next rule is.
fn one_rule(rule: &Rule) -> Vec<Instruction> {
    let mut code = vec![plain(RETURN, rule.answer)];
    for condition in rule.conditions.iter().rev() {
        let mut front = compare(condition, code.len());
        front.append(&mut code);
        code = front;
    }
    code
}

/// Where a comparison goes: on within itself, on to what follows it, or over the rest of the rule.
#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

/// One condition in front of `rest` instructions of its rule. Arguments are compared in two halves,
/// because BPF's registers have 32 bits.
fn compare(condition: &Condition, rest: usize) -> Vec<Instruction> {
    use To::{Fails, Holds, Next};
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let high = low + 4;
    let steps = match condition.test {
        Test::Equal(value) => vec![
            step(LOAD, high, Next, Next),
            step(JUMP_EQUAL, half(value, 32..64), Next, Fails),
            step(LOAD, low, Next, Next),
            step(JUMP_EQUAL, half(value, 0..32), Holds, Fails),
        ],
        Test::NotEqual(value) => vec![
            step(LOAD, high, Next, Next),
            step(JUMP_EQUAL, half(value, 32..64), Next, Holds),
            step(LOAD, low, Next, Next),
            step(JUMP_EQUAL, half(value, 0..32), Fails, Holds),
        ],
        Test::Greater(value) => order(low, value, JUMP_GREATER, Holds, Fails),
        Test::GreaterOrEqual(value) => order(low, value, JUMP_NOT_LESS, Holds, Fails),
        Test::LessOrEqual(value) => order(low, value, JUMP_GREATER, Fails, Holds),
        Test::Less(value) => order(low, value, JUMP_NOT_LESS, Fails, Holds),
        Test::Masked { mask, value } => vec![
            step(LOAD, high, Next, Next),
            step(AND, half(mask, 32..64), Next, Next),
            step(JUMP_EQUAL, half(value, 32..64), Next, Fails),
            step(LOAD, low, Next, Next),
            step(AND, half(mask, 0..32), Next, Next),
            step(JUMP_EQUAL, half(value, 0..32), Holds, Fails),
        ],
    };
    let len = steps.len();
    steps
        .into_iter()
        .enumerate()
        .map(|(at, (code, k, yes, no))| {
            let skip = |to| {
                let over = match to {
                    Next => 0,
                    Holds => len - at - 1,
                    Fails => len - at - 1 + rest,
                };
                u8::try_from(over).expect("six conditions are under forty instructions")
            };
            branch(code, k, skip(yes), skip(no))
        })
        .collect()
}

type Step = (u16, u32, To, To);

fn step(code: u16, k: u32, yes: To, no: To) -> Step {
    (code, k, yes, no)
}

/// Greater by the high half, or equal there and `last` by the low half.
fn order(low: u32, value: u64, last: u16, yes: To, no: To) -> Vec<Step> {
    vec![
        step(LOAD, low + 4, To::Next, To::Next),
        step(JUMP_GREATER, half(value, 32..64), yes, To::Next),
        step(JUMP_EQUAL, half(value, 32..64), To::Next, no),
        step(LOAD, low, To::Next, To::Next),
        step(last, half(value, 0..32), yes, no),
    ]
}

fn half(value: u64, bits: Range<u32>) -> u32 {
    u32::try_from((value >> bits.start) & u64::from(u32::MAX)).expect("masked to 32 bits")
}

fn distance(len: usize) -> u32 {
    u32::try_from(len).expect("a program is far shorter than 2^32 instructions")
}

fn plain(code: u16, k: u32) -> Instruction {
    branch(code, k, 0, 0)
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}
