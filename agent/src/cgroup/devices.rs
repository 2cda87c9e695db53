// SPDX-License-Identifier: Apache-2.0
//! Which devices a container may use (`linux.resources.devices`): cgroup v2 asks a BPF program.
//!
//! The rules are those of cgroup v1's device files, with which the specification was written: they are laid
//! on top of each other in their order, so the program looks at the last one first. It takes from the wish
//! (read, write, make a node) what an allowing rule grants, answers no at a rule that denies any of the
//! rest, yes when nothing is left, and no at the end.
//!
//! Why it matters inside of a machine of its own: the machine's disks are there too. By default a container
//! may make any device node, so without this it could write to its disk below the file system, or to that
//! of another container of its pod.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::LimitError;
use crate::oci;
use crate::sys;

/// One rule, understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceRule {
    allow: bool,
    /// `None`: both.
    kind: Option<Kind>,
    /// `None`: all.
    major: Option<i32>,
    /// `None`: all.
    minor: Option<i32>,
    access: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Block,
    Char,
}

// `BPF_DEVCG_ACC_*` and `BPF_DEVCG_DEV_*` of linux/bpf.h.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

impl Kind {
    fn code(self) -> i32 {
        match self {
            Self::Block => 1,
            Self::Char => 2,
        }
    }
}

/// What every container may do, whatever its spec says, as with runc: make nodes, and use the devices that
/// it is given (config-linux.md, "Default Devices") and terminals.
const ALWAYS: [DeviceRule; 10] = [
    allow(Kind::Char, None, None, MAKE),
    allow(Kind::Block, None, None, MAKE),
    allow(Kind::Char, Some(1), Some(3), ALL), // null
    allow(Kind::Char, Some(1), Some(5), ALL), // zero
    allow(Kind::Char, Some(1), Some(7), ALL), // full
    allow(Kind::Char, Some(1), Some(8), ALL), // random
    allow(Kind::Char, Some(1), Some(9), ALL), // urandom
    allow(Kind::Char, Some(5), Some(0), ALL), // tty
    allow(Kind::Char, Some(5), Some(2), ALL), // ptmx
    allow(Kind::Char, Some(136), None, ALL),  // pts
];

const fn allow(kind: Kind, major: Option<i32>, minor: Option<i32>, access: u8) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// Reads the rules of a spec, and adds those that always hold.
pub fn device_rules(rules: &[oci::DeviceRule]) -> Result<Vec<DeviceRule>, LimitError> {
    let mut understood = rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    understood.extend(ALWAYS);
    Ok(understood)
}

fn rule(rule: &oci::DeviceRule) -> Result<DeviceRule, LimitError> {
    let invalid = |reason: String| LimitError::Invalid {
        field: "devices",
        reason,
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|number| *number >= 0)
            .map(Some)
            .ok_or_else(|| invalid(format!("{number} is not a device number"))),
    };
    let kind = match rule.kind.as_str() {
        "" | "a" => None,
        "b" => Some(Kind::Block),
        "c" => Some(Kind::Char),
        other => return Err(invalid(format!("type {other:?} is unknown"))),
    };
    let access = rule.access.chars().try_fold(0, |access, letter| {
        Ok(access
            | match letter {
                'm' => MAKE,
                'r' => READ,
                'w' => WRITE,
                other => return Err(invalid(format!("access {other:?} is unknown"))),
            })
    })?;
    Ok(DeviceRule {
        allow: rule.allow,
        kind,
        major: number(rule.major)?,
        minor: number(rule.minor)?,
        // Nothing said grants nothing and denies everything.
        access: if access == 0 && !rule.allow {
            ALL
        } else {
            access
        },
    })
}

/// The filter for rules. That of the last ones is kept: rules seldom differ, and checking and translating a
/// program costs the kernel more memory and time than the rest of a cgroup.
pub fn filter(rules: &[DeviceRule]) -> io::Result<Arc<OwnedFd>> {
    static LAST: Mutex<Option<(Vec<DeviceRule>, Arc<OwnedFd>)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((its_rules, filter)) = &*last
        && its_rules == rules
    {
        return Ok(Arc::clone(filter));
    }
    let filter = Arc::new(sys::load_device_filter(&assemble(rules))?);
    *last = Some((rules.to_vec(), Arc::clone(&filter)));
    Ok(filter)
}

// Instructions (kernel Documentation/bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61; // dst = *(u32 *)(src + offset)
const COPY: u8 = 0xbf; // dst = src
const SET: u8 = 0xb7; // dst = immediate
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_NOT_EQUAL: u8 = 0x56; // 32 bits
const JUMP_ANY_BIT: u8 = 0x46; // 32 bits
const EXIT: u8 = 0x95;

// Registers.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WISH: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program, in the kernel's encoding.
fn assemble(rules: &[DeviceRule]) -> Vec<u64> {
    // struct bpf_cgroup_dev_ctx: access and type in one word, major, minor.
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(COPY, WISH, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, WISH, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(one_rule(rule));
    }
    program.extend(answer(0));
    program
}

fn one_rule(rule: &DeviceRule) -> Vec<u64> {
    let access = i32::from(rule.access);
    let verdict = if rule.allow {
        let rest = i32::from(ALL & !rule.access);
        let mut code = vec![
            instruction(AND, WISH, 0, 0, rest),
            instruction(JUMP_NOT_EQUAL, WISH, 0, 2, 0),
        ];
        code.extend(answer(1));
        code
    } else {
        let mut code = vec![
            instruction(JUMP_ANY_BIT, WISH, 0, 1, access),
            // Over the answer, to the next rule.
            instruction(JUMP, 0, 0, 2, 0),
        ];
        code.extend(answer(0));
        code
    };
    let tests = [
        (KIND, rule.kind.map(Kind::code)),
        (MAJOR, rule.major),
        (MINOR, rule.minor),
    ];
    let mut code: Vec<u64> = Vec::new();
    let tests: Vec<_> = tests
        .into_iter()
        .filter_map(|(register, value)| Some((register, value?)))
        .collect();
    for (at, (register, value)) in tests.iter().enumerate() {
        let over = tests.len() - at - 1 + verdict.len();
        let over = i16::try_from(over).expect("a rule has under ten instructions");
        code.push(instruction(JUMP_NOT_EQUAL, *register, 0, over, *value));
    }
    code.extend(verdict);
    code
}

fn answer(value: i32) -> [u64; 2] {
    [
        instruction(SET, ANSWER, 0, 0, value),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// `struct bpf_insn` on a little-endian machine.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The few instructions that are used, on a machine of six registers.
    fn run(program: &[u64], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 6];
        let mut at = 0;
        loop {
            let word = program[at];
            at += 1;
            let [code, both, ..] = word.to_le_bytes();
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            let offset = usize::try_from(word >> 16 & 0xffff).unwrap();
            let immediate = u64::from(u32::try_from(word >> 32).unwrap());
            let jump = match code {
                LOAD_WORD => {
                    registers[to] = context[offset / 4].into();
                    false
                }
                COPY => {
                    registers[to] = registers[from];
                    false
                }
                SET => {
                    registers[to] = immediate;
                    false
                }
                AND => {
                    registers[to] &= immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                JUMP_NOT_EQUAL => registers[to] != immediate,
                JUMP_ANY_BIT => registers[to] & immediate != 0,
                JUMP => true,
                EXIT => return registers[0],
                _ => panic!("instruction {code:#x}"),
            };
            if jump {
                at += offset;
            }
        }
    }

    /// What the rules mean, bit by bit: the last rule that speaks about a bit decides.
    fn expected(rules: &[DeviceRule], kind: Kind, major: i32, minor: i32, wish: u8) -> bool {
        [MAKE, READ, WRITE]
            .into_iter()
            .filter(|bit| wish & bit != 0)
            .all(|bit| {
                rules
                    .iter()
                    .rev()
                    .find(|rule| {
                        rule.access & bit != 0
                            && rule.kind.is_none_or(|k| k == kind)
                            && rule.major.is_none_or(|m| m == major)
                            && rule.minor.is_none_or(|m| m == minor)
                    })
                    .is_some_and(|rule| rule.allow)
            })
    }

    fn ask(rules: &[DeviceRule], kind: Kind, major: i32, minor: i32, wish: u8) -> bool {
        let word = u32::from(wish) << 16 | kind.code().cast_unsigned();
        let context = [word, major.cast_unsigned(), minor.cast_unsigned()];
        run(&assemble(rules), context) == 1
    }

    #[test]
    fn by_default_only_harmless_devices_can_be_used() {
        let deny_all = oci::DeviceRule {
            access: "rwm".to_owned(),
            ..oci::DeviceRule::default()
        };
        let rules = device_rules(&[deny_all]).unwrap();
        assert!(ask(&rules, Kind::Char, 1, 3, READ | WRITE));
        assert!(ask(&rules, Kind::Char, 136, 7, READ | WRITE));
        assert!(ask(&rules, Kind::Block, 254, 0, MAKE));
        assert!(!ask(&rules, Kind::Block, 254, 0, READ));
        assert!(!ask(&rules, Kind::Char, 4, 64, WRITE));
    }

    #[test]
    fn a_privileged_container_may_use_everything() {
        let allow_all = oci::DeviceRule {
            allow: true,
            kind: "a".to_owned(),
            major: Some(-1),
            access: "rwm".to_owned(),
            ..oci::DeviceRule::default()
        };
        let rules = device_rules(&[allow_all]).unwrap();
        assert!(ask(&rules, Kind::Block, 254, 0, ALL));
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for json in [
            r#"{"allow":true,"type":"x"}"#,
            r#"{"allow":true,"access":"rx"}"#,
            r#"{"allow":true,"major":-2}"#,
        ] {
            let rule = serde_json::from_str(json).unwrap();
            assert!(device_rules(&[rule]).is_err(), "{json}");
        }
    }

    fn rules() -> impl Strategy<Value = Vec<DeviceRule>> {
        let number = || prop::option::of(0..3_i32);
        let kind = prop_oneof![Just(None), Just(Some(Kind::Block)), Just(Some(Kind::Char))];
        let rule = (any::<bool>(), kind, number(), number(), 1..8_u8).prop_map(
            |(allow, kind, major, minor, access)| DeviceRule {
                allow,
                kind,
                major,
                minor,
                access,
            },
        );
        prop::collection::vec(rule, 0..12)
    }

    proptest! {
        #[test]
        fn the_program_answers_as_the_rules_say(
            rules in rules(), block in any::<bool>(), major in 0..3_i32, minor in 0..3_i32, wish in 1..8_u8,
        ) {
            let kind = if block { Kind::Block } else { Kind::Char };
            prop_assert_eq!(
                ask(&rules, kind, major, minor, wish),
                expected(&rules, kind, major, minor, wish)
            );
        }
    }
}
