// SPDX-License-Identifier: Apache-2.0
//! Further processes of a running container, on every containerd.

use cube_tests::bed::Bed;
use cube_tests::suite::{Case, case};

use crate::MAIN;

pub const CASES: &[Case] = &[
    case("exec_has_streams_of_its_own", streams).resident(),
    case("exec_exit_codes_are_those_of_the_shell", exit_codes).resident(),
    case("exec_of_a_missing_program_is_refused", missing_program).resident(),
    case("processes_are_listed", listed).resident(),
    case("exec_in_the_background_is_killed_by_name", killed_by_name)
        .on(MAIN)
        .resident(),
    case(
        "exec_ends_though_a_child_holds_its_output",
        output_held_open,
    )
    .on(MAIN)
    .resident(),
];

fn streams(bed: &mut Bed) {
    let id = bed.resident();
    let ended = bed
        .exec(&id, "read line; echo \"out $line\"; echo err >&2")
        .input("in\n")
        .run()
        .succeeded();
    assert_eq!((ended.out(), ended.err()), ("out in".into(), "err".into()));
}

fn exit_codes(bed: &mut Bed) {
    let id = bed.resident();
    for (script, code) in [
        ("true", 0),
        ("exit 1", 1),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
    ] {
        bed.exec(&id, script).run().expect_code(code);
    }
}

fn missing_program(bed: &mut Bed) {
    let id = bed.resident();
    let exec_id = bed.id("missing");
    let ended = bed
        .ctr(&[
            "task",
            "exec",
            "--exec-id",
            &exec_id,
            &id,
            "/no/such/program",
        ])
        .run();
    ended.refused(&["/no/such/program", "no such file"]);
}

fn listed(bed: &mut Bed) {
    let id = bed.resident();
    let list = bed.ctr(&["task", "ps", &id]).run().succeeded().out();
    let pids: Vec<i32> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(
        !pids.is_empty() && pids.iter().all(|pid| *pid > 0),
        "{list}"
    );
}

fn killed_by_name(bed: &mut Bed) {
    let id = bed.resident();
    let exec_id = bed.id("exec");
    let mut exec = bed
        .ctr(&["task", "exec", "--exec-id", &exec_id, &id, "sleep", "1000"])
        .start();
    let ps = |bed: &Bed| bed.ctr(&["task", "ps", &id]).run().succeeded().out();
    cube_tests::bounded::eventually(
        "the process in the list",
        cube_tests::bounded::STEP_LIMIT,
        || ps(bed).contains(&exec_id),
    );
    assert!(exec.is_alive());
    bed.ctr(&["task", "kill", "-s", "SIGTERM", "--exec-id", &exec_id, &id])
        .run()
        .succeeded();
    exec.wait().expect_code(143);
    assert_eq!(bed.task_state(&id), "RUNNING");
}

fn output_held_open(bed: &mut Bed) {
    let id = bed.resident();
    let ended = bed
        .exec(&id, "sleep 300 & echo $! > /tmp/child; echo done")
        .run()
        .succeeded();
    assert_eq!(ended.out(), "done");
    assert!(ended.took.as_secs() < 60, "took {:?}", ended.took);
    bed.exec(&id, "kill $(cat /tmp/child)").run().succeeded();
}
