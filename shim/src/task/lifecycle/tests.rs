// SPDX-License-Identifier: Apache-2.0
//! The table of legal moves, and the order of events under every order of happenings.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

const fn exited(status: u32) -> Exited {
    Exited {
        status,
        at: UNIX_EPOCH,
        oom_killed: false,
    }
}

/// One short word per event, to compare orders at a glance.
fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Created(_) => "created".to_owned(),
        Event::Started { .. } => "started".to_owned(),
        Event::ExecAdded { exec, .. } => format!("{exec} added"),
        Event::ExecStarted { exec, .. } => format!("{exec} started"),
        Event::Ended { exec, exited, .. } if exec.is_empty() => format!("ended {}", exited.status),
        Event::Ended { exec, exited, .. } => format!("{exec} ended {}", exited.status),
        Event::Paused { .. } => "paused".to_owned(),
        Event::Resumed { .. } => "resumed".to_owned(),
        Event::OutOfMemory { .. } => "oom".to_owned(),
        Event::Deleted { .. } => "deleted".to_owned(),
    };
    events.iter().map(word).collect()
}

fn running() -> Ledger {
    let mut ledger = Ledger::new("t", 7);
    ledger.begin_start("").unwrap();
    ledger.started("").unwrap();
    ledger
}

fn with_exec(mut ledger: Ledger) -> Ledger {
    ledger.add_exec("e").unwrap();
    ledger.begin_start("e").unwrap();
    ledger.started("e").unwrap();
    ledger
}

#[test]
fn a_life_without_surprises() {
    let mut ledger = Ledger::new("t", 7);
    assert_eq!(ledger.phase(""), Ok(Phase::Created));
    assert_eq!(ledger.begin_start(""), Ok(vec![]));
    assert_eq!(words(&ledger.started("").unwrap()), ["started"]);
    assert_eq!(ledger.begin_pause(), Ok(vec![]));
    assert_eq!(ledger.phase(""), Ok(Phase::Pausing));
    assert_eq!(words(&ledger.paused(true).unwrap()), ["paused"]);
    assert_eq!(words(&ledger.resumed().unwrap()), ["resumed"]);
    assert_eq!(words(&ledger.ended("", exited(3)).unwrap()), ["ended 3"]);
    assert_eq!(ledger.may_delete(""), Ok(Some(exited(3))));
}

#[test]
fn an_end_during_start_is_told_after_the_start() {
    let mut ledger = Ledger::new("t", 7);
    ledger.begin_start("").unwrap();
    assert_eq!(words(&ledger.ended("", exited(0)).unwrap()), [""; 0]);
    assert_eq!(ledger.phase(""), Ok(Phase::Starting));
    assert_eq!(words(&ledger.started("").unwrap()), ["started", "ended 0"]);
}

#[test]
fn the_first_process_ends_last() {
    let mut ledger = with_exec(running());
    assert_eq!(words(&ledger.ended("", exited(0)).unwrap()), [""; 0]);
    assert!(ledger.end_is_held());
    assert_eq!(ledger.phase(""), Ok(Phase::Running));
    let told = ledger.ended("e", exited(137)).unwrap();
    assert_eq!(words(&told), ["e ended 137", "ended 0"]);
    assert!(!ledger.end_is_held());
}

#[test]
fn a_guest_that_hides_an_exec_cannot_hold_the_end_back_for_ever() {
    let mut ledger = with_exec(running());
    ledger.ended("", exited(0)).unwrap();
    let told = ledger.end_execs(exited(137)).unwrap();
    assert_eq!(words(&told), ["e ended 137", "ended 0"]);
    assert_eq!(words(&ledger.ended("e", exited(1)).unwrap()), [""; 0]);
}

#[test]
fn execs_are_not_ended_while_the_first_process_lives() {
    let mut ledger = with_exec(running());
    assert_eq!(ledger.end_execs(exited(137)), Ok(vec![]));
    assert_eq!(ledger.phase("e"), Ok(Phase::Running));
}

#[test]
fn a_task_that_never_ran_can_be_killed_and_deleted() {
    let mut ledger = Ledger::new("t", 7);
    assert_eq!(ledger.may_signal(""), Ok(()));
    assert_eq!(ledger.may_delete(""), Ok(None));
    assert_eq!(
        words(&ledger.ended("", exited(137)).unwrap()),
        ["ended 137"]
    );
    assert_eq!(ledger.may_delete(""), Ok(Some(exited(137))));
    assert!(matches!(
        ledger.begin_start(""),
        Err(IllegalMove::NotNow { .. })
    ));
}

#[test]
fn a_failed_start_of_the_first_process_is_its_end() {
    let mut ledger = Ledger::new("t", 7);
    ledger.begin_start("").unwrap();
    let told = ledger.start_failed("", exited(127)).unwrap();
    assert_eq!(words(&told), ["ended 127"]);
    assert_eq!(words(&ledger.ended("", exited(1)).unwrap()), [""; 0]);
}

#[test]
fn a_failed_start_of_a_further_process_is_told_by_its_error_alone() {
    let mut ledger = running();
    assert_eq!(words(&ledger.add_exec("e").unwrap()), ["e added"]);
    ledger.begin_start("e").unwrap();
    assert_eq!(ledger.start_failed("e", exited(126)), Ok(vec![]));
    assert_eq!(ledger.may_delete("e"), Ok(Some(exited(126))));
}

#[test]
fn a_failed_exec_lets_a_held_end_go() {
    let mut ledger = running();
    ledger.add_exec("e").unwrap();
    ledger.begin_start("e").unwrap();
    assert_eq!(ledger.ended("", exited(0)), Ok(vec![]));
    let told = ledger.start_failed("e", exited(126)).unwrap();
    assert_eq!(words(&told), ["ended 0"]);
}

#[test]
fn out_of_memory_is_told_once_before_the_end_that_it_caused() {
    let killed = Exited {
        oom_killed: true,
        ..exited(137)
    };
    let mut ledger = running();
    let told = ledger.ended("", killed).unwrap();
    assert_eq!(words(&told), ["oom", "ended 137"]);
    assert_eq!(ledger.out_of_memory(), Ok(vec![]));

    let mut ledger = running();
    assert_eq!(words(&ledger.out_of_memory().unwrap()), ["oom"]);
    assert_eq!(words(&ledger.ended("", killed).unwrap()), ["ended 137"]);
}

#[test]
fn illegal_moves_say_what_and_why() {
    let check = |result: Result<Vec<Event>, IllegalMove>, expect: &str| {
        assert_eq!(result.unwrap_err().to_string(), expect);
    };
    let mut ledger = running();
    check(
        ledger.begin_start(""),
        "task \"t\" cannot be started while it is running",
    );
    check(ledger.begin_start("x"), "task \"t\" has no process \"x\"");
    ledger.add_exec("e").unwrap();
    check(
        ledger.add_exec("e"),
        "task \"t\" has a process \"e\" already",
    );
    check(ledger.add_exec(""), "task \"t\" has a process \"\" already");
    ledger.begin_pause().unwrap();
    ledger.paused(true).unwrap();
    check(
        ledger.begin_pause(),
        "task \"t\" cannot be paused while it is paused",
    );
    check(
        ledger.add_exec("f"),
        "task \"t\" cannot be given a process while it is paused",
    );
    check(
        ledger.begin_start("e"),
        "task \"t\" cannot be given a process while it is paused",
    );
    ledger.ended("", exited(0)).unwrap();
    check(ledger.add_exec("f"), "task \"t\" has ended");
    check(ledger.begin_pause(), "task \"t\" has ended");
    assert_eq!(
        ledger.may_signal("").unwrap_err().to_string(),
        "task \"t\" has ended"
    );
    let mut ledger = running();
    ledger.add_exec("e").unwrap();
    assert_eq!(
        ledger.may_signal("e").unwrap_err().to_string(),
        "process \"e\" of task \"t\" cannot be signalled while it is created"
    );
    assert_eq!(
        ledger.may_delete("").unwrap_err().to_string(),
        "task \"t\" cannot be deleted while it is running"
    );
}

#[test]
fn an_end_while_being_paused_is_an_end() {
    let mut ledger = running();
    ledger.begin_pause().unwrap();
    assert_eq!(words(&ledger.ended("", exited(9)).unwrap()), ["ended 9"]);
    assert_eq!(ledger.paused(true), Ok(vec![]));
    assert_eq!(ledger.phase(""), Ok(Phase::Stopped(exited(9))));
}

#[test]
fn a_pause_that_failed_leaves_it_running() {
    let mut ledger = running();
    ledger.begin_pause().unwrap();
    assert_eq!(ledger.paused(false), Ok(vec![]));
    assert_eq!(ledger.phase(""), Ok(Phase::Running));
}

/// Anything that can happen to a task, in any order.
#[derive(Clone, Debug)]
enum Happening {
    AddExec(&'static str),
    BeginStart(&'static str),
    Started(&'static str),
    StartFailed(&'static str),
    Ended(&'static str, bool),
    EndExecs,
    Oom,
    BeginPause,
    Paused(bool),
    Resumed,
    Forget(&'static str),
}

fn happening() -> impl Strategy<Value = Happening> {
    let process = || prop::sample::select(vec!["", "a", "b"]);
    let exec = || prop::sample::select(vec!["a", "b"]);
    prop_oneof![
        exec().prop_map(Happening::AddExec),
        process().prop_map(Happening::BeginStart),
        process().prop_map(Happening::Started),
        process().prop_map(Happening::StartFailed),
        (process(), any::<bool>()).prop_map(|(exec, oom)| Happening::Ended(exec, oom)),
        Just(Happening::EndExecs),
        Just(Happening::Oom),
        Just(Happening::BeginPause),
        any::<bool>().prop_map(Happening::Paused),
        Just(Happening::Resumed),
        exec().prop_map(Happening::Forget),
    ]
}

/// Applies one happening the way the shim does: what is illegal is refused and changes nothing.
fn apply(ledger: &mut Ledger, happening: Happening) -> Vec<Event> {
    let told = match happening {
        Happening::AddExec(exec) => ledger.add_exec(exec),
        Happening::BeginStart(exec) => ledger.begin_start(exec),
        Happening::Started(exec) => ledger.started(exec),
        Happening::StartFailed(exec) => match ledger.phase(exec) {
            Ok(Phase::Starting) => ledger.start_failed(exec, exited(126)),
            _ => Ok(vec![]),
        },
        Happening::Ended(exec, oom_killed) => ledger.ended(
            exec,
            Exited {
                oom_killed,
                ..exited(1)
            },
        ),
        Happening::EndExecs => ledger.end_execs(exited(137)),
        Happening::Oom => ledger.out_of_memory(),
        Happening::BeginPause => ledger.begin_pause(),
        Happening::Paused(done) => ledger.paused(done),
        Happening::Resumed => ledger.resumed(),
        Happening::Forget(exec) => {
            if ledger.may_delete(exec).is_ok() {
                ledger.forget_exec(exec);
            }
            Ok(vec![])
        }
    };
    told.unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// containerd's runtime v2 contract, for every order of happenings.
    #[test]
    fn events_come_in_the_promised_order(
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut ledger = Ledger::new("t", 7);
        let mut alive: BTreeMap<String, bool> = BTreeMap::new();
        let (mut started, mut over, mut paused) = (false, false, false);
        for happening in happenings {
            for event in apply(&mut ledger, happening) {
                match event {
                    Event::Created(_) | Event::Deleted { .. } => prop_assert!(false),
                    Event::Started { .. } => {
                        prop_assert!(!started && !over);
                        started = true;
                    }
                    Event::ExecAdded { exec, .. } => {
                        prop_assert!(!over);
                        // False: known, not running. A name may be used again after Delete.
                        prop_assert_ne!(alive.insert(exec, false), Some(true));
                    }
                    Event::ExecStarted { exec, .. } => {
                        prop_assert!(!over);
                        prop_assert_eq!(alive.insert(exec, true), Some(false));
                    }
                    Event::Ended { exec, .. } if exec.is_empty() => {
                        prop_assert!(!over, "two ends");
                        prop_assert!(!alive.values().any(|alive| *alive), "not the last end");
                        over = true;
                    }
                    Event::Ended { exec, .. } => {
                        prop_assert!(!over, "an end after the last");
                        prop_assert_eq!(alive.remove(&exec), Some(true), "an end without a start");
                    }
                    Event::Paused { .. } => {
                        prop_assert!(started && !over && !paused);
                        paused = true;
                    }
                    Event::Resumed { .. } => {
                        prop_assert!(paused && !over);
                        paused = false;
                    }
                    Event::OutOfMemory { .. } => prop_assert!(!over),
                }
            }
            prop_assert_eq!(over, matches!(ledger.phase(""), Ok(Phase::Stopped(_))));
        }
        // Whatever happened, everything can still come to its end.
        for exec in ["", "a", "b"] {
            apply(&mut ledger, Happening::Started(exec));
        }
        for exec in ["a", "b", ""] {
            apply(&mut ledger, Happening::Ended(exec, false));
        }
        prop_assert!(matches!(ledger.phase(""), Ok(Phase::Stopped(_))));
    }
}
