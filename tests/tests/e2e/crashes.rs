// SPDX-License-Identifier: Apache-2.0
//! Processes of the host side and of the guest are killed: what is reported, what remains, what others feel.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use cube_tests::bed::{Bed, End};
use cube_tests::bounded::{STEP_LIMIT, eventually};
use cube_tests::ctr::BUSYBOX;
use cube_tests::events::Events;
use cube_tests::suite::{Case, case};

use crate::MAIN;

pub const CASES: &[Case] = &[
    case("killed_vmm_ends_its_task_and_no_other", vmm)
        .on(MAIN)
        .ours()
        .resident(),
    case("crashed_guest_ends_its_task_and_no_other", guest)
        .on(MAIN)
        .ours()
        .resident(),
    case("killed_shim_takes_its_container_and_no_other", shim).resident(),
    case("exit_while_containerd_is_away_is_found_later", exit_unseen).on(MAIN),
    case("killed_snapshotter_is_not_missed_by_what_runs", snapshotter)
        .on(MAIN)
        .ours()
        .resident(),
];

fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).expect("no process has number zero");
    kill_process(pid, Signal::KILL).expect("it is there");
}

fn is_well(bed: &mut Bed) {
    let resident = bed.resident();
    assert_eq!(
        bed.exec(&resident, "echo well").run().succeeded().out(),
        "well"
    );
}

fn vmm(bed: &mut Bed) {
    let events = Events::subscribe(bed);
    let id = bed.sleeper("vmm", &[]);
    kill(bed.task_pid(&id));
    bed.await_state(&id, "STOPPED");
    let exit = events
        .await_topic(&id, "/tasks/exit")
        .pop()
        .expect("it was awaited");
    assert_eq!(exit.fields["exit_status"], 137);
    bed.delete_task(&id, 137);
    bed.ctr(&["container", "delete", &id]).run().succeeded();
    is_well(bed);
}

/// Death of the agent, PID 1 of the guest, is a panic of the guest's kernel too.
fn guest(bed: &mut Bed) {
    let id = bed.id("guest");
    let script = "sleep 1; echo c > /proc/sysrq-trigger; sleep 1000";
    let ended = bed
        .run(
            &["--rm", "--privileged"],
            BUSYBOX,
            &id,
            &["sh", "-c", script],
        )
        .run();
    assert!(ended.code() != 0, "a crash is no success");
    is_well(bed);
}

fn shim(bed: &mut Bed) {
    let id = bed.sleeper("shim", &[]);
    let vmm = bed.task_pid(&id);
    kill(bed.shim_pid(&id));
    eventually("end of what the shim had started", STEP_LIMIT, || {
        !fs::exists(format!("/proc/{vmm}")).unwrap_or(true)
    });
    eventually("end of the task", STEP_LIMIT, || {
        matches!(&*bed.task_state(&id), "" | "STOPPED" | "UNKNOWN")
    });
    bed.ctr(&["task", "delete", &id]).run(); // containerd may have done it already
    bed.ctr(&["container", "delete", &id]).run().succeeded();
    is_well(bed);
}

/// From 1.7 on containerd takes the shim of an ended task for a leaked one and removes both.
fn exit_unseen(bed: &mut Bed) {
    let id = bed.id("unseen");
    let script = "while ! test -e /tmp/go; do sleep 0.1; done; sleep 3; exit 9";
    bed.run(&["-d"], BUSYBOX, &id, &["sh", "-c", script])
        .run()
        .succeeded();
    bed.exec(&id, "touch /tmp/go").run().succeeded();
    bed.restart_containerd_after(End::Kill, Duration::from_secs(6));
    let is_over = |bed: &Bed| matches!(&*bed.task_state(&id), "" | "STOPPED");
    eventually("end of the task", STEP_LIMIT, || is_over(bed));
    if bed.task_state(&id) == "STOPPED" {
        bed.delete_task(&id, 9);
    }
    bed.ctr(&["container", "delete", &id]).run().succeeded();
}

fn snapshotter(bed: &mut Bed) {
    bed.restart_snapshotter(End::Kill);
    is_well(bed);
    let said = bed.sh("after", &[], "echo new").succeeded().out();
    assert_eq!(said, "new");
}
