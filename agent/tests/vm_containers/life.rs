// SPDX-License-Identifier: Apache-2.0
//! From creation to deletion, with whatever the container did in between.

use std::fs;

use serde_json::json;

use crate::spec::{process, shell, spec};
use crate::world::{container, refusal, soon, world};

#[tokio::test]
async fn deletion_kills_everything_and_leaves_nothing() {
    let world = world!();
    let mut capable = shell(
        "mkdir /sys/fs/cgroup/a /sys/fs/cgroup/a/b && echo $$ > /sys/fs/cgroup/a/b/cgroup.procs; \
         mount -t tmpfs x /tmp; trap '' TERM INT HUP; echo up; (while :; do sleep 1; done) & while :; do sleep 1; done",
    );
    capable["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    capable["capabilities"]["permitted"] = capable["capabilities"]["effective"].clone();
    capable["capabilities"]["bounding"] = capable["capabilities"]["effective"].clone();
    let mut spec = spec(capable);
    spec["mounts"][7]["options"] = json!(["rw"]);
    world.create("c", &spec).await.unwrap();
    let (_, mut streams) = world.create_process("c", "", None, false).await.unwrap();
    world.start_process("c", "").await.unwrap();
    crate::streams::read_until(streams.stdout.as_mut().unwrap(), "up\n").await;
    assert!(world.cgroup().join("c/a/b").is_dir());
    // Also with a process that waits for its start, and one in the container's own cgroup.
    let sleeper = process(&["sleep", "1000"]);
    world
        .create_process("c", "created", Some(&sleeper), false)
        .await
        .unwrap();
    let pids = world
        .client
        .list_pids(soon(), &container("c"))
        .await
        .unwrap();
    assert!(pids.processes.len() >= 3, "{pids:?}");

    let (code, _) = refusal(world.delete_process("c", "").await);
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
    world.delete("c").await.unwrap();
    world.assert_clean();
    world.delete("c").await.unwrap();
}

#[tokio::test]
async fn what_a_container_wrote_is_on_its_disk_for_the_next() {
    let world = world!();
    for expected in ["", "written\n", "written\nwritten\n"] {
        let output = world
            .sh("cat /data 2>/dev/null; echo written >> /data")
            .await;
        assert_eq!(output.stdout, expected);
    }
    world.assert_clean();
}

#[tokio::test]
async fn a_cgroup_with_controllers_below_still_takes_further_processes() {
    let world = world!();
    let mut spec = spec(shell(
        "cd /sys/fs/cgroup && mkdir init && echo 1 > init/cgroup.procs && echo +memory > cgroup.subtree_control && echo up; sleep 1000000",
    ));
    spec["mounts"][7]["options"] = json!(["rw"]);
    world.create("c", &spec).await.unwrap();
    let (_, mut streams) = world.create_process("c", "", None, false).await.unwrap();
    world.start_process("c", "").await.unwrap();
    crate::streams::read_until(streams.stdout.as_mut().unwrap(), "up\n").await;
    let output = world
        .exec("c", &shell("cat /proc/self/cgroup"))
        .await
        .unwrap();
    assert_eq!(output.stdout, "0::/init\n", "{output:?}");
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn six_containers_at_once_on_six_disks() {
    let mut world = world!();
    for slot in 1..6 {
        world.add_disk(slot);
    }
    let world = &world;
    let runs: Vec<_> = (0..6)
        .map(async |slot| {
            let id = format!("c{slot}");
            let script = format!("echo {slot}; exit {slot}");
            let spec = spec(shell(&script));
            world.create_on(slot, &id, &spec).await.unwrap();
            let (_, streams) = world.create_process(&id, "", None, false).await.unwrap();
            let output = world.collect(&id, "", streams).await;
            world.delete(&id).await.unwrap();
            (output.status, output.stdout)
        })
        .collect();
    let results = join_all(runs).await;
    for (slot, (status, stdout)) in results.into_iter().enumerate() {
        assert_eq!((status as usize, stdout), (slot, format!("{slot}\n")));
    }
    world.assert_clean();
}

#[tokio::test]
async fn many_processes_leave_no_descriptor_behind() {
    let world = world!();
    world.idle("c").await;
    let descriptors = || {
        let dir = format!("/proc/{}/fd", world.agent_pid());
        fs::read_dir(dir).unwrap().count()
    };
    world.exec("c", &shell("true")).await.unwrap();
    let before = descriptors();
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        world.exec("c", &shell("echo a; echo b >&2")).await.unwrap();
    }
    eprintln!("{:?} per further process", begun.elapsed() / 20);
    // The host's last close may still be on its way.
    for _ in 0..100 {
        if descriptors() <= before {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(descriptors(), before);
}

/// All of them at the same time, on this thread.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(move |cx| {
        for (future, output) in &mut waiting {
            if output.is_none()
                && let std::task::Poll::Ready(done) = future.as_mut().poll(cx)
            {
                *output = Some(done);
            }
        }
        if waiting.iter().all(|(_, output)| output.is_some()) {
            let outputs = waiting.iter_mut().filter_map(|(_, output)| output.take());
            std::task::Poll::Ready(outputs.collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
