// SPDX-License-Identifier: Apache-2.0
//! Further processes.

use super::*;

#[tokio::test]
async fn an_exec_that_cannot_run_harms_nothing() {
    let fixture = Fixture::running("t1").await;
    fixture.add_exec("t1", "e1").await.unwrap();
    fixture
        .machine
        .fail("create_process", Kind::InvalidArgument);
    assert_eq!(
        code(fixture.shim.do_start("t1", "e1").await),
        Code::INVALID_ARGUMENT
    );
    assert_eq!(fixture.status("t1", "e1"), Status::STOPPED);
    fixture.shim.do_delete("t1", "e1").await.unwrap();
    assert_eq!(code(fixture.shim.do_state("t1", "e1")), Code::NOT_FOUND);
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
    assert_eq!(fixture.told(), ["create", "start", "exec-added"]);
}

#[tokio::test]
async fn an_exec_has_a_life_of_its_own() {
    let fixture = Fixture::running("t1").await;
    fixture.add_exec("t1", "e1").await.unwrap();
    assert_eq!(
        code(fixture.add_exec("t1", "e1").await),
        Code::ALREADY_EXISTS
    );
    assert_eq!(fixture.shim.do_state("t1", "e1").unwrap().pid, 0);
    fixture.shim.do_start("t1", "e1").await.unwrap();
    assert_eq!(
        code(fixture.shim.do_delete("t1", "e1").await),
        Code::FAILED_PRECONDITION
    );
    fixture.machine.process("t1", "e1").exit(5);
    assert_eq!(fixture.wait("t1", "e1").await.status, 5);
    let deleted = fixture.shim.do_delete("t1", "e1").await.unwrap();
    assert_eq!(deleted.exited.status, 5);
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
}

#[tokio::test]
async fn an_exec_without_a_spec_is_refused() {
    let fixture = Fixture::running("t1").await;
    let request = ExecProcessRequest {
        id: "t1".into(),
        exec_id: "e1".into(),
        ..Default::default()
    };
    assert_eq!(
        code(fixture.shim.do_exec(request).await),
        Code::INVALID_ARGUMENT
    );
}

#[tokio::test]
async fn many_execs_run_at_once() {
    let fixture = Fixture::running("t1").await;
    for i in 0..20 {
        fixture.add_exec("t1", &format!("e{i}")).await.unwrap();
    }
    let starts = (0..20).map(|i| {
        let shim = fixture.shim.clone();
        tokio::spawn(async move { shim.do_start("t1", &format!("e{i}")).await })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    assert_eq!(fixture.shim.do_pids("t1").unwrap().processes.len(), 21);
}

#[tokio::test]
async fn pids_are_the_machines_and_name_their_execs() {
    let fixture = Fixture::running("t1").await;
    fixture.exec("t1", "e1").await;
    let pids = fixture.shim.do_pids("t1").unwrap().processes;
    assert_eq!(
        pids.iter().map(|process| process.pid).collect::<Vec<_>>(),
        [PID, PID]
    );
    assert!(pids[0].info.is_none());
    let info = pids[1].info.as_ref().unwrap();
    assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
    assert_eq!(info.value, b"\x0a\x02e1");
    assert_eq!(fixture.shim.do_connect("t1").task_pid, PID);
}

#[tokio::test]
async fn an_exec_that_never_ran_can_be_deleted_but_not_signalled() {
    let fixture = Fixture::running("t1").await;
    fixture.add_exec("t1", "e1").await.unwrap();
    assert_eq!(
        code(fixture.kill("t1", "e1", 9).await),
        Code::FAILED_PRECONDITION
    );
    let shim = fixture.shim.clone();
    let waiter = tokio::spawn(async move { shim.do_wait("t1", "e1").await });
    tokio::task::yield_now().await;
    fixture.shim.do_delete("t1", "e1").await.unwrap();
    assert_eq!(
        code(timeout(SOON, waiter).await.unwrap().unwrap()),
        Code::NOT_FOUND
    );
}

#[tokio::test]
async fn a_size_that_comes_before_the_terminal_is_kept_for_it() {
    let fixture = Fixture::running("t1").await;
    let spec = Any {
        value: b"{}".to_vec(),
        ..Default::default()
    };
    let request = ExecProcessRequest {
        id: "t1".into(),
        exec_id: "e1".into(),
        terminal: true,
        spec: Some(spec).into(),
        ..Default::default()
    };
    fixture.shim.do_exec(request).await.unwrap();
    let resize = |exec: &str, width: u32| ResizePtyRequest {
        id: "t1".into(),
        exec_id: exec.into(),
        width,
        height: 24,
        ..Default::default()
    };
    fixture.shim.do_resize(resize("e1", 80)).await.unwrap();
    fixture.shim.do_start("t1", "e1").await.unwrap();
    fixture.shim.do_resize(resize("e1", 132)).await.unwrap();
    let calls = fixture.machine.calls();
    assert_eq!(
        calls[calls.len() - 4..],
        [
            "create_process t1/e1",
            "resize t1/e1 80x24",
            "start t1/e1",
            "resize t1/e1 132x24"
        ]
    );
    assert_eq!(
        code(fixture.shim.do_resize(resize("e1", 70_000)).await),
        Code::INVALID_ARGUMENT
    );
    assert_eq!(
        code(fixture.shim.do_resize(resize("", 80)).await),
        Code::FAILED_PRECONDITION
    );
}
