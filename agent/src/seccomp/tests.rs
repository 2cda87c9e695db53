// SPDX-License-Identifier: Apache-2.0
//! Filters are run on a small interpreter and compared with the rules that they came from.

use proptest::prelude::*;

use super::policy::{Calls, Condition, Machine, Policy, Rule, Test};
use super::{Instruction, SeccompError, compile, program};
use crate::oci::Seccomp;

/// What a filter sees.
#[derive(Clone, Copy, Debug)]
struct Call {
    machine: u32,
    number: u32,
    args: [u64; 6],
}

const NATIVE: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn errno(code: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | code.cast_unsigned()
}

/// The few instructions of classic BPF that the compiler emits.
fn run(program: &[Instruction], call: Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = load(call, k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return k,
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            _ => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn load(call: Call, offset: u32) -> u32 {
    match offset {
        0 => call.number,
        4 => call.machine,
        16..64 => {
            let arg = call.args[(offset as usize - 16) / 8];
            let bytes = arg.to_le_bytes();
            let start = offset as usize % 8;
            u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap())
        }
        _ => panic!("offset {offset}"),
    }
}

fn profile(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

fn native(name: i64, args: &[u64]) -> Call {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    Call {
        machine: NATIVE,
        number: u32::try_from(name).unwrap(),
        args: all,
    }
}

#[test]
fn a_usual_profile_answers_as_written() {
    let filter = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
            "syscalls":[
              {"names":["read","write","no_such_call","openat2"],"action":"SCMP_ACT_ALLOW"},
              {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]},
              {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
              {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
              {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
              {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":40,"op":"SCMP_CMP_NE"}]}]}"#,
    ))
    .unwrap();
    let check = |call: Call, expected: u32| {
        assert_eq!(run(&filter.program, call), expected, "{call:?}");
    };
    check(native(libc::SYS_read, &[]), ALLOW);
    check(native(libc::SYS_openat2, &[]), ALLOW);
    check(native(libc::SYS_mount, &[]), errno(libc::EPERM));
    check(native(libc::SYS_personality, &[8]), ALLOW);
    check(
        native(libc::SYS_personality, &[8 << 32]),
        errno(libc::EPERM),
    );
    check(native(libc::SYS_personality, &[1]), errno(libc::EPERM));
    check(native(libc::SYS_clone, &[17]), ALLOW);
    check(native(libc::SYS_clone, &[0x1000_0000]), errno(libc::EPERM));
    check(native(libc::SYS_clone3, &[]), errno(libc::ENOSYS));
    check(native(libc::SYS_socket, &[1]), ALLOW);
    check(native(libc::SYS_socket, &[40]), errno(libc::EPERM));
    // Newer than the newest that the profile names.
    check(native(libc::SYS_openat2 + 1, &[]), errno(libc::ENOSYS));
    let read_32 = Call {
        machine: I386,
        number: 3,
        args: [0; 6],
    };
    check(read_32, ALLOW);
    let x32 = native(0x4000_0000, &[]);
    check(x32, errno(libc::ENOSYS));
    let foreign = Call {
        machine: 0xc000_00b7,
        ..read_32
    };
    check(foreign, KILL);
}

#[test]
fn code_for_machines_that_are_not_listed_is_killed() {
    let filter = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    ))
    .unwrap();
    let run = |call| run(&filter.program, call);
    assert_eq!(run(native(libc::SYS_mkdir, &[])), errno(libc::EACCES));
    assert_eq!(run(native(9999, &[])), ALLOW);
    assert_eq!(run(native(0x4000_0001, &[])), KILL);
    let other = Call {
        machine: I386,
        number: 1,
        args: [0; 6],
    };
    assert_eq!(run(other), KILL);
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let filter = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{"names":["ioctl"],"action":"SCMP_ACT_LOG","args":[
            {"index":1,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#,
    ))
    .unwrap();
    let answer = |second| run(&filter.program, native(libc::SYS_ioctl, &[0, second]));
    assert_eq!(
        [answer(1), answer(2), answer(3)],
        [libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_LOG, KILL]
    );
}

#[test]
fn what_is_unknown_is_named() {
    type Check = fn(&SeccompError) -> bool;
    let table: [(&str, Check); 5] = [
        (r#"{"defaultAction":"SCMP_ACT_DANCE"}"#, |e| {
            matches!(e, SeccompError::Action { .. })
        }),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, |e| {
            matches!(e, SeccompError::Notify)
        }),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_X"]}"#,
            |e| matches!(e, SeccompError::Flag { .. }),
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            |e| matches!(e, SeccompError::Argument { index: 6 }),
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":0,"op":"SCMP_CMP_XX"}]}]}"#,
            |e| matches!(e, SeccompError::Operator { .. }),
        ),
    ];
    for (json, expected) in table {
        let error = compile(&profile(json)).unwrap_err();
        assert!(expected(&error), "{json} gave {error}");
    }
}

fn tests() -> impl Strategy<Value = Test> {
    let value = prop_oneof![
        0..4_u64,
        (0..4_u64).prop_map(|high| high << 32),
        any::<u64>()
    ];
    (0..7, value.clone(), value).prop_map(|(kind, value, mask)| match kind {
        0 => Test::Equal(value),
        1 => Test::NotEqual(value),
        2 => Test::Less(value),
        3 => Test::LessOrEqual(value),
        4 => Test::Greater(value),
        5 => Test::GreaterOrEqual(value),
        _ => Test::Masked {
            mask,
            value: value & mask,
        },
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let condition = (0..6_u8, tests()).prop_map(|(argument, test)| Condition { argument, test });
    let rule = (prop::collection::vec(condition, 0..4), 1..5_u32)
        .prop_map(|(conditions, answer)| Rule { conditions, answer });
    prop::collection::vec(rule, 1..4)
}

fn holds(test: Test, arg: u64) -> bool {
    match test {
        Test::Equal(value) => arg == value,
        Test::NotEqual(value) => arg != value,
        Test::Less(value) => arg < value,
        Test::LessOrEqual(value) => arg <= value,
        Test::Greater(value) => arg > value,
        Test::GreaterOrEqual(value) => arg >= value,
        Test::Masked { mask, value } => arg & mask == value,
    }
}

/// The meaning of a policy, without a program.
fn expected(calls: &Calls, default: u32, call: Call) -> u32 {
    if calls.newest.is_some_and(|newest| call.number > newest) {
        return errno(libc::ENOSYS);
    }
    let matches = |rule: &&Rule| {
        rule.conditions
            .iter()
            .all(|c| holds(c.test, call.args[usize::from(c.argument)]))
    };
    calls
        .rules
        .get(&call.number)
        .and_then(|list| list.iter().find(matches))
        .map_or(default, |rule| rule.answer)
}

proptest! {
    #[test]
    fn a_program_does_what_the_policy_says(
        rules in prop::collection::btree_map(0..400_u32, rules(), 0..120),
        bounded in any::<bool>(),
        calls in prop::collection::vec((0..420_u32, prop::array::uniform6(prop_oneof![0..5_u64, any::<u64>()])), 1..60),
    ) {
        let newest = bounded.then_some(400);
        let policy = Policy {
            default: 7,
            machines: vec![(Machine::X86_64, Calls { rules, newest })],
            tolerate_x32: false,
        };
        let program = program::assemble(&policy);
        for (number, args) in calls {
            let call = Call { machine: NATIVE, number, args };
            prop_assert_eq!(run(&program, call), expected(&policy.machines[0].1, 7, call), "{:?}", call);
        }
    }
}
