// SPDX-License-Identifier: Apache-2.0
//! What a client asks for in the container's spec is what the container gets.

use cube_tests::bed::Bed;
use cube_tests::ctr::BUSYBOX;
use cube_tests::events::Events;
use cube_tests::suite::{Case, case};

use crate::MAIN;

pub const CASES: &[Case] = &[
    case(
        "user_directory_environment_and_read_only_root_are_as_asked",
        as_asked,
    )
    .on(MAIN),
    case("memory_and_cpu_limits_are_in_force", limits).on(MAIN),
    case(
        "process_that_exceeds_its_memory_is_killed_and_reported",
        out_of_memory,
    )
    .on(MAIN)
    .ours(),
    case("layers_of_an_image_add_up", layers)
        .on(MAIN)
        .image("layers"),
];

fn as_asked(bed: &mut Bed) {
    let flags = [
        "--user",
        "1000",
        "--cwd",
        "/tmp",
        "--env",
        "COLOUR=blue",
        "--read-only",
    ];
    let script = "id -u; pwd; echo $COLOUR; touch /tmp/x 2>/dev/null || echo read-only";
    let said = bed.sh("asked", &flags, script).succeeded().out();
    assert_eq!(said, "1000\n/tmp\nblue\nread-only");
}

fn limits(bed: &mut Bed) {
    let cgroups = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro";
    let flags = [
        "--memory-limit",
        "67108864",
        "--cpus",
        "0.5",
        "--mount",
        cgroups,
    ];
    let script = "cd /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup) && cat memory.max cpu.max";
    let said = bed.sh("limits", &flags, script).succeeded().out();
    assert_eq!(said, "67108864\n50000 100000");
}

fn out_of_memory(bed: &mut Bed) {
    let events = Events::subscribe(bed);
    let id = bed.id("oom");
    // tail keeps what it reads until a line ends, and no line ends.
    let run = bed.run(
        &["--rm", "--memory-limit", "33554432"],
        BUSYBOX,
        &id,
        &["tail", "/dev/zero"],
    );
    run.run().expect_code(137);
    let seen = events.await_topic(&id, "/tasks/delete");
    let topics: Vec<_> = seen.iter().map(|event| event.topic.as_str()).collect();
    let oom = topics.iter().position(|topic| *topic == "/tasks/oom");
    let exit = topics.iter().position(|topic| *topic == "/tasks/exit");
    assert!(oom.is_some() && oom < exit, "{topics:?}");
}

fn layers(bed: &mut Bed) {
    let id = bed.id("layers");
    let script = "cd /data && find . | sort | tr '\\n' ' '; cat kept replaced; stat -c %a setuid; stat -c %h setuid-again; stat -c '%u %a' users";
    let run = bed.run(
        &["--rm"],
        "docker.io/library/layers:latest",
        &id,
        &["sh", "-c", script],
    );
    let said = run.run().succeeded().out();
    let expect = ". ./kept ./opaque ./opaque/above ./replaced ./setuid ./setuid-again ./users \
                  kept in layer 1\nreplaced in layer 2\n4755\n2\n1000 640";
    assert_eq!(said, expect);
}
