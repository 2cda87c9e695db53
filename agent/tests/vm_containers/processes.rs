// SPDX-License-Identifier: Apache-2.0
//! Exit codes, signals, users, directories, further processes.

use serde_json::json;

use crate::spec::{process, shell, spec};
use crate::world::{PATIENCE, container, soon, world};

#[tokio::test]
async fn exit_codes_and_signal_deaths_are_told_apart() {
    let world = world!();
    for (script, status) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("sh -c 'kill -KILL $$'; exit $?", 137),
        ("sh -c 'kill -TERM $$'; exit $?", 143),
    ] {
        // As PID 1 the shell itself is shielded from signals, so the status is that of its child.
        assert_eq!(world.sh(script).await.status, status, "{script}");
    }
    world.assert_clean();
}

#[tokio::test]
async fn signals_from_outside_end_a_container() {
    let world = world!();
    for (signal, status) in [(libc::SIGKILL, 137), (libc::SIGTERM, 143)] {
        // The trap is what lets PID 1 notice; it then dies as it would outside.
        world
            .create(
                "c",
                &spec(shell(
                    "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done",
                )),
            )
            .await
            .unwrap();
        let (_, mut streams) = world.create_process("c", "", None, false).await.unwrap();
        world.start_process("c", "").await.unwrap();
        crate::streams::read_until(streams.stdout.as_mut().unwrap(), "up\n").await;
        world.signal("c", "", signal, false).await.unwrap();
        assert_eq!(world.wait("c", "").await.exit_status, status);
        let (code, text) = crate::world::refusal(world.signal("c", "", libc::SIGKILL, false).await);
        assert_eq!(code, ttrpc::Code::NOT_FOUND);
        assert_eq!(text, "process already finished");
        world.delete("c").await.unwrap();
    }
    world.assert_clean();
}

#[tokio::test]
async fn a_process_that_was_never_started_can_be_killed() {
    let world = world!();
    world.create("c", &spec(shell("echo no"))).await.unwrap();
    let (pid, _streams) = world.create_process("c", "", None, false).await.unwrap();
    assert!(pid > 1);
    world.signal("c", "", libc::SIGTERM, false).await.unwrap();
    assert_eq!(world.wait("c", "").await.exit_status, 137);
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn user_groups_umask_directory_and_environment_are_set() {
    let world = world!();
    let mut process = shell("id; umask; pwd; echo $HOME $A; ulimit -n; ulimit -Hn");
    process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [1002, 5], "umask": 0o77});
    process["cwd"] = json!("/home/user");
    process["env"] = json!(["PATH=/bin", "A=b c"]);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 200, "soft": 100}]);
    let output = world.run(&spec(process)).await.unwrap();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert!(
        lines[0].starts_with("uid=1000(user) gid=1001"),
        "{output:?}"
    );
    assert!(
        lines[0].contains("1002") && lines[0].contains('5'),
        "{output:?}"
    );
    assert_eq!(
        lines[1..],
        ["0077", "/home/user", "/home/user b c", "100", "200"]
    );
}

#[tokio::test]
async fn a_user_without_a_name_has_the_root_as_home() {
    let world = world!();
    let mut process = shell("id -u; echo $HOME; cat /proc/self/oom_score_adj");
    process["user"] = json!({"uid": 4711, "gid": 4711});
    process["oomScoreAdj"] = json!(123);
    let output = world.run(&spec(process)).await.unwrap();
    assert_eq!(output.stdout, "4711\n/\n123\n");
}

#[tokio::test]
async fn a_missing_directory_is_refused() {
    let world = world!();
    let expected = "chdir to cwd (\"/nope\") set in config.json failed: no such file or directory";
    let mut lost = shell("pwd");
    lost["cwd"] = json!("/nope");
    let (_, text) = crate::world::refusal(world.run(&spec(lost.clone())).await);
    assert_eq!(text, expected);
    world.assert_clean();
    world.idle("c").await;
    let (_, text) = crate::world::refusal(world.exec("c", &lost).await);
    assert_eq!(text, expected);
}

#[tokio::test]
async fn further_processes_share_everything_with_the_first() {
    let world = world!();
    world.idle("c").await;
    let output = world
        .exec(
            "c",
            &shell("hostname; ps | grep -c 'sleep 100[0]'; cat /proc/self/cgroup; echo x > /tmp/f"),
        )
        .await
        .unwrap();
    assert_eq!(output.stdout, "inside\n1\n0::/\n", "{output:?}");
    let output = world.exec("c", &shell("cat /tmp/f; exit 3")).await.unwrap();
    assert_eq!((output.stdout.as_str(), output.status), ("x\n", 3));

    // Several at once, and their names beside their numbers.
    let mut running = Vec::new();
    for exec_id in ["one", "two", "three"] {
        let sleeper = process(&["sleep", "1000000"]);
        let (pid, streams) = world
            .create_process("c", exec_id, Some(&sleeper), false)
            .await
            .unwrap();
        world.start_process("c", exec_id).await.unwrap();
        running.push((pid, exec_id.to_owned(), streams));
    }
    let pids = world
        .client
        .list_pids(soon(), &container("c"))
        .await
        .unwrap();
    assert_eq!(pids.processes.len(), 4);
    for (pid, exec_id, _) in &running {
        assert!(
            pids.processes
                .iter()
                .any(|p| p.pid == *pid && p.exec_id == *exec_id)
        );
    }
    // The end of the first is the end of all.
    world.signal("c", "", libc::SIGKILL, false).await.unwrap();
    for exec_id in ["one", "two", "three", ""] {
        assert_eq!(world.wait("c", exec_id).await.exit_status, 137);
    }
    let (code, _) = crate::world::refusal(world.exec("c", &shell("true")).await);
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn a_signal_for_all_reaches_every_process() {
    let world = world!();
    world.create("c", &spec(shell("trap 'echo one' USR1; sleep 0.1 & (trap 'echo two' USR1; echo up; while :; do sleep 0.1; done) & while :; do sleep 0.1; done")))
        .await
        .unwrap();
    let (_, mut streams) = world.create_process("c", "", None, false).await.unwrap();
    world.start_process("c", "").await.unwrap();
    let stdout = streams.stdout.as_mut().unwrap();
    crate::streams::read_until(stdout, "up\n").await;
    world.signal("c", "", libc::SIGUSR1, true).await.unwrap();
    let text = crate::streams::read_lines(stdout, 2).await;
    assert!(text.contains("one\n") && text.contains("two\n"), "{text}");
    world.signal("c", "", libc::SIGKILL, true).await.unwrap();
    assert_eq!(world.wait("c", "").await.exit_status, 137);
}

#[tokio::test]
async fn orphans_are_buried_by_the_container_itself_and_by_the_agent() {
    let world = world!();
    // The shell's grandchild loses its parent while the container lives on.
    world.idle("c").await;
    let output = world
        .exec("c", &shell("(sleep 0.2 &) ; true"))
        .await
        .unwrap();
    assert_eq!(output.status, 0);
    tokio::time::timeout(PATIENCE, async {
        loop {
            let pids = world
                .client
                .list_pids(soon(), &container("c"))
                .await
                .unwrap();
            if pids.processes.len() == 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}
