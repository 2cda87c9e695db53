// SPDX-License-Identifier: Apache-2.0
//! From Create to Delete: what is told, in which order, and what is left.

use super::*;

#[tokio::test]
async fn a_whole_life() {
    let fixture = Fixture::running("t1").await;
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
    fixture.machine.process("t1", "").exit(3);
    assert_eq!(fixture.wait("t1", "").await.status, 3);
    assert_eq!(fixture.status("t1", ""), Status::STOPPED);
    let deleted = fixture.shim.do_delete("t1", "").await.unwrap();
    assert_eq!((deleted.pid, deleted.exited.status), (PID, 3));
    fixture.shim.do_shutdown().await.unwrap();
    timeout(SOON, fixture.shim.stopped()).await.unwrap();
    assert_eq!(fixture.told(), ["create", "start", "exit", "delete"]);
    assert_eq!(
        fixture.machine.calls(),
        [
            "boot t1",
            "create_container t1",
            "create_process t1/",
            "start t1/",
            "delete t1/",
            "delete_container t1",
            "destroy",
        ]
    );
}

#[tokio::test]
async fn the_real_exit_is_in_the_bundle_for_the_delete_action() {
    let fixture = Fixture::running("t1").await;
    let bundle = fixture.dir.path().join("t1");
    let saved = || crate::bundle::TaskState::load(&bundle).unwrap().unwrap();
    assert_eq!((saved().pid, saved().exit), (PID, None));
    fixture.machine.process("t1", "").exit(9);
    fixture.wait("t1", "").await;
    assert_eq!(saved().exit.unwrap().status, 9);
}

#[tokio::test]
async fn a_process_that_ends_during_its_start_is_told_in_order() {
    let fixture = Fixture::new();
    fixture.create("t1").await;
    let release = fixture.machine.stick("start");
    let shim = fixture.shim.clone();
    let start = tokio::spawn(async move { shim.do_start("t1", "").await });
    while !fixture.machine.calls().contains(&"start t1/".to_owned()) {
        tokio::task::yield_now().await;
    }
    fixture.machine.process("t1", "").exit(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fixture.told(), ["create"]);
    release.notify_one();
    start.await.unwrap().unwrap();
    fixture.wait("t1", "").await;
    assert_eq!(fixture.told(), ["create", "start", "exit"]);
}

#[tokio::test]
async fn the_execs_of_a_dying_container_end_first() {
    let fixture = Fixture::running("t1").await;
    fixture.exec("t1", "e1").await;
    fixture.machine.process("t1", "").exit(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
    fixture.machine.process("t1", "e1").exit(137);
    assert_eq!(fixture.wait("t1", "").await.status, 0);
    assert_eq!(
        fixture.told(),
        [
            "create",
            "start",
            "exec-added",
            "exec-started",
            "exit",
            "exit"
        ]
    );
    let ids: Vec<_> = fixture.publisher.collected()[4..]
        .iter()
        .map(|event| {
            containerd_shim_protos::events::task::TaskExit::parse_from_bytes(&event.message.value)
                .unwrap()
                .id
        })
        .collect();
    assert_eq!(ids, ["e1", "t1"]);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let fixture = Fixture::new();
    let shim = &fixture.shim;
    assert_eq!(code(shim.do_state("t1", "")), Code::NOT_FOUND);
    assert_eq!(code(shim.do_pids("t1")), Code::NOT_FOUND);
    assert_eq!(code(shim.do_start("t1", "").await), Code::NOT_FOUND);
    assert_eq!(code(shim.do_delete("t1", "").await), Code::NOT_FOUND);
    assert_eq!(code(shim.do_wait("t1", "").await), Code::NOT_FOUND);
    assert_eq!(code(shim.do_stats("t1").await), Code::NOT_FOUND);
    assert_eq!(code(shim.do_pause("t1").await), Code::NOT_FOUND);
    assert_eq!(
        code(shim.do_close_io("t1", "", true).await),
        Code::NOT_FOUND
    );
    assert_eq!(code(fixture.kill("t1", "", 9).await), Code::NOT_FOUND);
    let connected = shim.do_connect("t1");
    assert_eq!(connected.task_pid, 0);
    assert_eq!(connected.shim_pid, std::process::id());
}

#[tokio::test]
async fn a_task_that_ended_is_still_listed() {
    let fixture = Fixture::running("t1").await;
    fixture.machine.process("t1", "").exit(0);
    fixture.wait("t1", "").await;
    assert_eq!(fixture.shim.do_pids("t1").unwrap().processes.len(), 1);
}

#[tokio::test]
async fn a_task_that_never_ran_can_be_killed() {
    let fixture = Fixture::new();
    fixture.create("t1").await;
    fixture.kill("t1", "", 9).await.unwrap();
    assert_eq!(fixture.wait("t1", "").await.status, 137);
    fixture.shim.do_delete("t1", "").await.unwrap();
    assert_eq!(fixture.told(), ["create", "exit", "delete"]);
}

#[tokio::test]
async fn a_task_that_never_ran_can_be_deleted() {
    let fixture = Fixture::new();
    fixture.create("t1").await;
    let deleted = fixture.shim.do_delete("t1", "").await.unwrap();
    assert_eq!(deleted.exited.status, 137);
    assert!(
        fixture
            .machine
            .calls()
            .contains(&"signal t1/ 9 all".to_owned())
    );
}

#[tokio::test]
async fn a_lack_of_memory_is_told_before_the_end_that_it_caused() {
    let fixture = Fixture::running("t1").await;
    fixture.machine.process("t1", "").exit_out_of_memory();
    assert_eq!(fixture.wait("t1", "").await.status, 137);
    assert_eq!(fixture.told(), ["create", "start", "oom", "exit"]);
}

#[tokio::test]
async fn a_guest_cannot_flood_containerd_with_lacks_of_memory() {
    let fixture = Fixture::running("t1").await;
    for _ in 0..50 {
        fixture.machine.run_out_of_memory();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(fixture.told(), ["create", "start", "oom"]);
}

#[tokio::test]
async fn the_end_of_the_machine_ends_everything_in_it() {
    let fixture = Fixture::running("t1").await;
    fixture.exec("t1", "e1").await;
    fixture.machine.crash();
    assert_eq!(fixture.wait("t1", "e1").await.status, 137);
    assert_eq!(fixture.wait("t1", "").await.status, 137);
    assert_eq!(fixture.status("t1", ""), Status::STOPPED);
    fixture.shim.do_delete("t1", "e1").await.unwrap();
    fixture.shim.do_delete("t1", "").await.unwrap();
    assert_eq!(
        fixture.told(),
        [
            "create",
            "start",
            "exec-added",
            "exec-started",
            "exit",
            "exit",
            "delete"
        ]
    );
}

#[tokio::test]
async fn the_containers_of_a_pod_share_one_machine() {
    let fixture = Fixture::running("t1").await;
    fixture.create("t2").await;
    let boots = |calls: Vec<String>| calls.iter().filter(|call| call.starts_with("boot")).count();
    assert_eq!(boots(fixture.machine.calls()), 1);

    fixture.shim.do_shutdown().await.unwrap();
    assert!(!fixture.machine.calls().contains(&"destroy".to_owned()));

    // A failed one takes only itself away.
    fixture
        .machine
        .fail("create_process", Kind::InvalidArgument);
    let failed = fixture.shim.do_create(fixture.request("t3")).await;
    assert_eq!(code(failed), Code::INVALID_ARGUMENT);
    assert!(
        fixture
            .machine
            .calls()
            .contains(&"delete_container t3".to_owned())
    );

    fixture.shim.do_delete("t2", "").await.unwrap();
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
    assert!(!fixture.machine.calls().contains(&"destroy".to_owned()));
    fixture.machine.process("t1", "").exit(0);
    fixture.wait("t1", "").await;
    fixture.shim.do_delete("t1", "").await.unwrap();
    fixture.shim.do_shutdown().await.unwrap();
    timeout(SOON, fixture.shim.stopped()).await.unwrap();
    let destroyed = fixture
        .machine
        .calls()
        .iter()
        .filter(|call| *call == "destroy")
        .count();
    assert_eq!(destroyed, 1);
}

#[tokio::test]
async fn two_creates_at_once_agree_on_one_machine() {
    let fixture = Fixture::new();
    let (one, two) = tokio::join!(
        fixture.shim.do_create(fixture.request("t1")),
        fixture.shim.do_create(fixture.request("t2")),
    );
    assert_eq!((one.unwrap(), two.unwrap()), (PID, PID));
    assert_eq!(
        fixture
            .machine
            .calls()
            .iter()
            .filter(|call| call.starts_with("boot"))
            .count(),
        1
    );
}

#[tokio::test]
async fn delete_waits_for_the_last_byte() {
    let fixture = Fixture::new();
    let mut request = fixture.request("t1");
    let log = fixture.dir.path().join("log");
    request.stdout = format!("file://{}", log.display());
    fixture.shim.do_create(request).await.unwrap();
    fixture.shim.do_start("t1", "").await.unwrap();
    let process = fixture.machine.process("t1", "");
    let mut stdout = process.stream(1);
    let writer = tokio::spawn(async move {
        for _ in 0..100 {
            stdout.write_all(&[b'x'; 10_000]).await.unwrap();
        }
    });
    process.exit(0);
    fixture.wait("t1", "").await;
    timeout(SOON, fixture.shim.do_delete("t1", ""))
        .await
        .unwrap()
        .unwrap();
    writer.await.unwrap();
    assert_eq!(fs::metadata(log).unwrap().len(), 1_000_000);
}

#[tokio::test]
async fn the_end_of_the_shim_is_told_for_every_task() {
    let fixture = Fixture::running("t1").await;
    timeout(SOON, fixture.shim.end()).await.unwrap();
    assert_eq!(fixture.told(), ["create", "start", "exit"]);
}
