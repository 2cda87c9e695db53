// SPDX-License-Identifier: Apache-2.0
//! The 17 calls against a machine that is a fake: what they answer, what they ask of the machine, and
//! what containerd is told in which order.

use std::fs;

use containerd_shim_protos::api::*;
use cube_runtime::{Kind, Stats};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use ttrpc::Code;

use super::lifecycle::Exited;
use super::*;
use crate::events::Encoded;
use crate::guest::fake::{FakeMachine, PID};

const SOON: Duration = Duration::from_secs(10);

/// A spec that a machine can be made from: what `ctr run` writes, shortened.
const SPEC: &str = r#"{
    "ociVersion": "1.0.2",
    "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]}
}"#;

struct Fixture {
    shim: Arc<Shim>,
    machine: FakeMachine,
    publisher: Publisher,
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let machine = FakeMachine::default();
        let publisher = Publisher::collecting();
        let identity = Identity {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "default".into(),
            sandbox: "t1".into(),
        };
        let boot = Box::new(machine.clone());
        let shim = Shim::new(identity, Config::default(), boot, publisher.clone());
        Self {
            shim: Arc::new(shim),
            machine,
            publisher,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn request(&self, id: &str) -> CreateTaskRequest {
        let bundle = self.dir.path().join(id);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), SPEC).unwrap();
        CreateTaskRequest {
            id: id.into(),
            bundle: bundle.display().to_string(),
            ..Default::default()
        }
    }

    async fn create(&self, id: &str) {
        assert_eq!(self.shim.do_create(self.request(id)).await.unwrap(), PID);
    }

    async fn running(id: &str) -> Self {
        let fixture = Self::new();
        fixture.create(id).await;
        assert_eq!(fixture.shim.do_start(id, "").await.unwrap(), PID);
        fixture
    }

    async fn exec(&self, id: &str, exec: &str) {
        self.add_exec(id, exec).await.unwrap();
        self.shim.do_start(id, exec).await.unwrap();
    }

    async fn add_exec(&self, id: &str, exec: &str) -> Result<(), TaskError> {
        let spec = Any {
            value: br#"{"args":["true"],"cwd":"/"}"#.to_vec(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.shim.do_exec(request).await
    }

    async fn kill(&self, id: &str, exec: &str, signal: u32) -> Result<(), TaskError> {
        let request = KillRequest {
            id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.shim.do_kill(request).await
    }

    async fn wait(&self, id: &str, exec: &str) -> Exited {
        timeout(SOON, self.shim.do_wait(id, exec))
            .await
            .unwrap()
            .unwrap()
    }

    fn status(&self, id: &str, exec: &str) -> Status {
        self.shim.do_state(id, exec).unwrap().status.unwrap()
    }

    /// The events so far, each as its topic without the common part.
    fn told(&self) -> Vec<String> {
        let topic = |event: &Encoded| event.topic.trim_start_matches("/tasks/").to_owned();
        self.publisher.collected().iter().map(topic).collect()
    }
}

fn code(result: Result<impl Sized, TaskError>) -> Code {
    match result.err().map(ttrpc::Error::from) {
        Some(ttrpc::Error::RpcStatus(status)) => status.code(),
        other => panic!("not a status: {other:?}"),
    }
}

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
async fn a_second_create_of_a_name_is_refused_and_changes_nothing() {
    let fixture = Fixture::running("t1").await;
    let again = fixture.shim.do_create(fixture.request("t1")).await;
    assert_eq!(code(again), Code::ALREADY_EXISTS);
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() {
    let check = async |call: &'static str, expect: Code, undone: &[&str]| {
        let fixture = Fixture::new();
        fixture.machine.fail(call, Kind::InvalidArgument);
        let result = fixture.shim.do_create(fixture.request("t1")).await;
        assert_eq!(code(result), expect, "{call}");
        let calls = fixture.machine.calls();
        assert!(calls.ends_with(&undone.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()));
        assert!(fixture.shim.is_vacant(), "{call}");
        assert!(fixture.told().is_empty(), "{call}");
        assert_eq!(
            code(fixture.shim.do_delete("t1", "").await),
            Code::NOT_FOUND
        );
        fixture.create("t1").await;
    };
    check("create_container", Code::INVALID_ARGUMENT, &["destroy"]).await;
    check("create_process", Code::INVALID_ARGUMENT, &["destroy"]).await;
    let fixture = Fixture::new();
    fixture.machine.fail("boot", Kind::Internal);
    let error = fixture
        .shim
        .do_create(fixture.request("t1"))
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("/dev/kvm"), "{error}");
    assert!(fixture.shim.is_vacant());
}

#[tokio::test]
async fn a_bad_bundle_is_refused_before_a_machine_is_made() {
    let fixture = Fixture::new();
    let request = fixture.request("t1");
    fs::write(fixture.dir.path().join("t1/config.json"), "{").unwrap();
    let error = fixture.shim.do_create(request.clone()).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "the request's OCI runtime spec (config.json) is not valid"
    );
    fs::remove_file(fixture.dir.path().join("t1/config.json")).unwrap();
    assert_eq!(
        code(fixture.shim.do_create(request).await),
        Code::FAILED_PRECONDITION
    );
    assert!(fixture.machine.calls().is_empty());
}

#[tokio::test]
async fn streams_that_cannot_be_opened_are_refused_before_a_machine_is_made() {
    let fixture = Fixture::new();
    let mut request = fixture.request("t1");
    request.stdout = "/nonexistent/fifo".into();
    assert_eq!(
        code(fixture.shim.do_create(request).await),
        Code::FAILED_PRECONDITION
    );
    assert!(fixture.machine.calls().is_empty());
}

#[tokio::test]
async fn checkpoints_are_not_supported() {
    let fixture = Fixture::new();
    let mut request = fixture.request("t1");
    request.checkpoint = "/c".into();
    assert_eq!(
        code(fixture.shim.do_create(request).await),
        Code::UNIMPLEMENTED
    );
}

#[tokio::test]
async fn a_command_that_is_not_there_fails_its_start() {
    let fixture = Fixture::new();
    fixture.create("t1").await;
    fixture.machine.fail("start", Kind::NotFound);
    assert_eq!(
        code(fixture.shim.do_start("t1", "").await),
        Code::INVALID_ARGUMENT
    );
    assert_eq!(fixture.status("t1", ""), Status::STOPPED);
    assert_eq!(fixture.wait("t1", "").await.status, 127);
    fixture.shim.do_delete("t1", "").await.unwrap();
    assert_eq!(fixture.told(), ["create", "exit", "delete"]);
}

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
async fn a_task_that_ended_is_still_listed() {
    let fixture = Fixture::running("t1").await;
    fixture.machine.process("t1", "").exit(0);
    fixture.wait("t1", "").await;
    assert_eq!(fixture.shim.do_pids("t1").unwrap().processes.len(), 1);
}

#[tokio::test]
async fn kill_reaches_what_runs_and_finds_nothing_that_ended() {
    let fixture = Fixture::running("t1").await;
    fixture.kill("t1", "", 15).await.unwrap();
    assert!(
        fixture
            .machine
            .calls()
            .contains(&"signal t1/ 15".to_owned())
    );
    fixture.kill("t1", "", 9).await.unwrap();
    assert_eq!(fixture.wait("t1", "").await.status, 137);
    assert_eq!(code(fixture.kill("t1", "", 9).await), Code::NOT_FOUND);
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
async fn sigkill_ends_a_guest_that_does_not_answer() {
    let fixture = Fixture::running("t1").await;
    fixture.machine.fail("signal", Kind::DeadlineExceeded);
    assert_eq!(
        code(fixture.kill("t1", "", 15).await),
        Code::DEADLINE_EXCEEDED
    );
    fixture.machine.fail("signal", Kind::DeadlineExceeded);
    fixture.kill("t1", "", 9).await.unwrap();
    assert_eq!(fixture.wait("t1", "").await.status, 137);
    assert!(fixture.machine.calls().contains(&"destroy".to_owned()));
}

#[tokio::test]
async fn pause_and_resume_are_seen_and_told() {
    let fixture = Fixture::running("t1").await;
    fixture.shim.do_pause("t1").await.unwrap();
    assert_eq!(fixture.status("t1", ""), Status::PAUSED);
    assert_eq!(
        code(fixture.shim.do_pause("t1").await),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(
        code(fixture.add_exec("t1", "e1").await),
        Code::FAILED_PRECONDITION
    );
    fixture.shim.do_resume("t1").await.unwrap();
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
    assert_eq!(
        code(fixture.shim.do_resume("t1").await),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(fixture.told(), ["create", "start", "paused", "resumed"]);
}

#[tokio::test]
async fn a_pause_that_fails_changes_nothing() {
    let fixture = Fixture::running("t1").await;
    fixture.machine.fail("pause", Kind::Internal);
    assert_eq!(code(fixture.shim.do_pause("t1").await), Code::INTERNAL);
    assert_eq!(fixture.status("t1", ""), Status::RUNNING);
    assert_eq!(fixture.told(), ["create", "start"]);
}

#[tokio::test]
async fn limits_go_to_the_guest_as_they_came() {
    let fixture = Fixture::running("t1").await;
    let request = |text: &str| UpdateTaskRequest {
        id: "t1".into(),
        resources: Some(Any {
            value: text.as_bytes().to_vec(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    fixture
        .shim
        .do_update(request(r#"{"pids":{"limit":5}}"#))
        .await
        .unwrap();
    assert!(
        fixture
            .machine
            .calls()
            .contains(&r#"update t1 {"pids":{"limit":5}}"#.to_owned())
    );
    assert_eq!(
        code(fixture.shim.do_update(request("x")).await),
        Code::INVALID_ARGUMENT
    );
}

#[tokio::test]
async fn stats_are_containerds_own_message() {
    let fixture = Fixture::running("t1").await;
    let mut stats = Stats::default();
    stats.memory.mut_or_insert_default().current = 4096;
    fixture.machine.set_stats(stats);
    let any = fixture.shim.do_stats("t1").await.unwrap();
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
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
