// SPDX-License-Identifier: Apache-2.0
//! Cgroup limits, counters, the freezer and the out-of-memory killer.

use std::fs;
use std::time::Duration;

use cube_protocol::v1::agent::UpdateContainerRequest;
use serde_json::json;

use crate::spec::{shell, spec};
use crate::world::{container, refusal, soon, world};

/// Takes memory until the kernel objects.
const HOG: &str = "a=x; while :; do a=$a$a; done";

#[tokio::test]
async fn limits_are_in_the_containers_cgroup() {
    let world = world!();
    let mut spec = spec(shell(
        "cd /sys/fs/cgroup; cat memory.max memory.swap.max memory.low pids.max cpu.max cpu.weight",
    ));
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 1 << 20},
        "pids": {"limit": 20},
        "cpu": {"quota": 50000, "period": 100_000, "shares": 512},
    });
    let output = world.run(&spec).await.unwrap();
    let swap = if output.stdout.lines().count() == 6 {
        "0\n"
    } else {
        ""
    };
    assert_eq!(
        output.stdout,
        format!("{}\n{swap}{}\n20\n50000 100000\n20\n", 64 << 20, 1 << 20),
        "{output:?}"
    );
    world.assert_clean();
}

#[tokio::test]
async fn the_limit_of_processes_holds_for_further_ones_too() {
    let world = world!();
    world
        .idle_with("c", |spec| {
            spec["linux"]["resources"] = json!({"pids": {"limit": 2}})
        })
        .await;
    let output = world.exec("c", &shell("sleep 1 & wait")).await.unwrap();
    assert!(output.stderr.contains("can't fork"), "{output:?}");
    let blocker = shell("sleep 1000");
    let (_, _streams) = world
        .create_process("c", "b", Some(&blocker), false)
        .await
        .unwrap();
    let (_, text) = refusal(world.exec("c", &shell("true")).await);
    assert_eq!(
        text,
        "cannot start a process: resource temporarily unavailable"
    );
}

#[tokio::test]
async fn memory_that_runs_out_kills_and_is_told() {
    let world = world!();
    let mut spec = spec(shell(&format!("sh -c '{HOG}'; echo $?; sleep 1000000")));
    spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    world.create("c", &spec).await.unwrap();
    let (_, mut streams) = world.create_process("c", "", None, false).await.unwrap();
    let client = world.client.clone();
    let told = tokio::spawn(async move { client.wait_oom(soon(), &container("c")).await });
    world.start_process("c", "").await.unwrap();
    told.await.unwrap().unwrap();
    crate::streams::read_until(streams.stdout.as_mut().unwrap(), "137\n").await;

    // Told once; the next wait is for the next kill, or the container's end.
    let client = world.client.clone();
    let next = tokio::spawn(async move { client.wait_oom(soon(), &container("c")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!next.is_finished());
    world.signal("c", "", libc::SIGKILL, false).await.unwrap();
    let exit = world.wait("c", "").await;
    assert!(exit.oom_killed);
    assert_eq!(exit.exit_status, 137);
    world.delete("c").await.unwrap();
    assert_eq!(refusal(next.await.unwrap()).0, ttrpc::Code::NOT_FOUND);
    world.assert_clean();
}

#[tokio::test]
async fn a_container_too_small_to_start_in_says_so() {
    let world = world!();
    let mut spec = spec(shell("true"));
    spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 10, "swap": 16 << 10}});
    world.create("c", &spec).await.unwrap();
    let (_, text) = refusal(world.create_process("c", "", None, false).await.map(|_| ()));
    assert!(text.contains("memory limit is too low"), "{text}");
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn an_exit_without_a_kill_is_not_blamed_on_memory() {
    let world = world!();
    assert!(!world.sh("exit 137").await.oom_killed);
}

#[tokio::test]
async fn limits_can_change_and_counters_count() {
    let world = world!();
    world.idle("c").await;
    let mut request = UpdateContainerRequest::new();
    request.container_id = "c".to_owned();
    request.resources_json = br#"{"memory":{"limit":33554432},"pids":{"limit":9},"cpu":{"quota":20000,"period":100000}}"#.to_vec();
    world
        .client
        .update_container(soon(), &request)
        .await
        .unwrap();
    world.exec("c", &shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 1000000 /dev/zero > /tmp/file; sync"))
        .await
        .unwrap();
    let stats = world
        .client
        .stats_container(soon(), &container("c"))
        .await
        .unwrap();
    assert_eq!(stats.memory.max, 32 << 20);
    assert_eq!(stats.pids.max, 9);
    assert_eq!(stats.pids.current, 1);
    assert!(stats.cpu.usage_usec > 0 && stats.cpu.nr_periods > 0);
    assert!(stats.memory.current > 0 && stats.memory.stat["anon"] > 0);
    assert!(stats.io.iter().any(|device| device.wbytes > 0), "{stats:?}");
    request.resources_json = br#"{"memory":{"disableOOMKiller":true}}"#.to_vec();
    let (code, text) = refusal(world.client.update_container(soon(), &request).await);
    assert_eq!(code, ttrpc::Code::UNIMPLEMENTED);
    assert!(text.contains("disableOOMKiller"), "{text}");
}

#[tokio::test]
async fn a_paused_container_stands_still_and_can_be_killed() {
    let world = world!();
    world.idle("c").await;
    world
        .client
        .pause_container(soon(), &container("c"))
        .await
        .unwrap();
    let events = world.cgroup().join("c/cgroup.events");
    assert!(fs::read_to_string(&events).unwrap().contains("frozen 1"));
    let (code, _) = refusal(world.exec("c", &shell("true")).await);
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
    world
        .client
        .resume_container(soon(), &container("c"))
        .await
        .unwrap();
    assert_eq!(world.exec("c", &shell("exit 4")).await.unwrap().status, 4);
    world
        .client
        .pause_container(soon(), &container("c"))
        .await
        .unwrap();
    world.signal("c", "", libc::SIGKILL, false).await.unwrap();
    assert_eq!(world.wait("c", "").await.exit_status, 137);
    world.delete("c").await.unwrap();
    world.assert_clean();
}
