// SPDX-License-Identifier: Apache-2.0
//! From `ctr run` to the last trace of a container, on every containerd.

use std::fs;

use cube_tests::bed::{Bed, End, Runtime, Settings};
use cube_tests::ctr::BUSYBOX;
use cube_tests::events::Events;
use cube_tests::series::Series;
use cube_tests::suite::{Case, case};

pub const CASES: &[Case] = &[
    case(
        "container_runs_on_the_guests_kernel_not_the_hosts",
        own_kernel,
    )
    .ours(),
    case("exit_code_of_the_process_is_that_of_ctr_run", exit_code),
    case("task_in_the_background_is_listed_as_running", listed).resident(),
    case("killed_task_is_stopped_with_137_and_deleted", killed),
    case("events_come_in_order", events_in_order),
    case("metrics_have_cpu_memory_and_pids", metrics).resident(),
    case("paused_task_stands_still_until_resumed", pause_and_resume).resident(),
    case(
        "container_outlives_a_crash_and_a_restart_of_containerd",
        containerd_away,
    ),
    case("task_version_3_serves_a_container", task_v3)
        .on(Series::V2_1)
        .ours(),
];

fn own_kernel(bed: &mut Bed) {
    let manifest = fs::read(bed.image().join("manifest.json")).expect("the image has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let boot_id = "/proc/sys/kernel/random/boot_id";
    let said = bed
        .sh("kernel", &[], &format!("uname -r; cat {boot_id}"))
        .succeeded()
        .out();
    let (release, boot) = said.split_once('\n').expect("two lines");
    assert_eq!(release, manifest["kernel_release"]);
    // Host and guest may run the same release: then this still tells them apart.
    let host_boot = fs::read_to_string(boot_id).expect("the host has one too");
    assert_ne!(boot.trim(), host_boot.trim());
}

fn exit_code(bed: &mut Bed) {
    bed.sh("one", &[], "exit 1").expect_code(1);
}

fn listed(bed: &mut Bed) {
    let id = bed.resident();
    assert_eq!(bed.task_state(&id), "RUNNING");
    let pid = bed.task_pid(&id);
    assert!(
        fs::exists(format!("/proc/{pid}/ns/net")).expect("/proc can be read"),
        "process {pid} is not on the host"
    );
}

fn killed(bed: &mut Bed) {
    let id = bed.sleeper("killed", &[]);
    bed.ctr(&["task", "kill", "-s", "SIGKILL", &id])
        .run()
        .succeeded();
    bed.await_state(&id, "STOPPED");
    bed.ctr(&["task", "kill", "-s", "SIGKILL", &id])
        .run()
        .refused(words_for_ended(bed));
    bed.delete_task(&id, 137);
    bed.ctr(&["container", "delete", &id]).run().succeeded();
}

/// The runtime's words, with those for the status code behind them where the client does not take them off.
fn words_for_ended(bed: &Bed) -> &'static [&'static str] {
    match (bed.runtime, bed.series) {
        (Runtime::Cube, Series::V2_1) => &["has ended"],
        (Runtime::Cube, _) => &["has ended: not found"],
        (_, Series::V2_1) => &["process already finished"],
        (_, _) => &["process already finished: not found"],
    }
}

fn events_in_order(bed: &mut Bed) {
    let events = Events::subscribe(bed);
    let id = bed.id("events");
    bed.run(&["--rm"], BUSYBOX, &id, &["sh", "-c", "exit 5"])
        .run()
        .expect_code(5);
    let seen = events.await_topic(&id, "/tasks/delete");
    let topics: Vec<_> = seen.iter().map(|event| event.topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete"
        ]
    );
    assert_eq!(seen[2].fields["exit_status"], 5);
    assert_eq!(
        seen[0].fields["pid"], seen[2].fields["pid"],
        "one task, one process id"
    );
}

fn metrics(bed: &mut Bed) {
    let id = bed.resident();
    let said = bed
        .ctr(&["task", "metrics", "--format", "json", &id])
        .run()
        .succeeded()
        .out();
    let metrics: serde_json::Value = serde_json::from_str(&said).expect("it is JSON");
    for (part, field) in [
        ("cpu", "usage_usec"),
        ("memory", "usage"),
        ("pids", "current"),
    ] {
        let value = metrics[part][field].as_u64().unwrap_or_default();
        assert!(value > 0, "{part}.{field} in {said}");
    }
}

fn pause_and_resume(bed: &mut Bed) {
    let id = bed.resident();
    let count = |bed: &mut Bed| -> u32 {
        let said = bed.exec(&id, "wc -c < /tmp/count").run().succeeded().out();
        said.parse().expect("a number")
    };
    bed.exec(
        &id,
        "touch /tmp/count; (while sleep 0.1; do printf x >> /tmp/count; done) > /dev/null 2>&1 &",
    )
    .run()
    .succeeded();
    bed.ctr(&["task", "pause", &id]).run().succeeded();
    assert_eq!(bed.task_state(&id), "PAUSED");
    std::thread::sleep(std::time::Duration::from_secs(2));
    bed.ctr(&["task", "resume", &id]).run().succeeded();
    assert_eq!(bed.task_state(&id), "RUNNING");
    let after = count(bed);
    cube_tests::bounded::eventually("counting goes on", cube_tests::bounded::STEP_LIMIT, || {
        count(bed) > after
    });
    bed.exec(&id, "killall sleep; rm /tmp/count").run();
}

fn containerd_away(bed: &mut Bed) {
    let id = bed.sleeper("survivor", &[]);
    let pid = bed.task_pid(&id);
    for end in [End::Kill, End::Stop] {
        bed.restart_containerd(end);
        bed.await_state(&id, "RUNNING");
        assert_eq!(bed.task_pid(&id), pid, "the same process");
        let said = bed.exec(&id, "echo alive").run().succeeded().out();
        assert_eq!(said, "alive");
    }
    bed.kill_and_delete(&id);
}

fn task_v3(bed: &mut Bed) {
    let settings = Settings {
        more: "task_v3 = true",
        ..Settings::default()
    };
    bed.with_settings(&settings, |bed| {
        let said = bed.sh("v3", &[], "echo three").succeeded().out();
        assert_eq!(said, "three");
    });
}
