// SPDX-License-Identifier: Apache-2.0
//! The life of a pod without a pause container, on a machine that is a fake.

use std::time::Duration;

use cube_runtime::Config;
use tokio::time::timeout;

use super::*;
use crate::events::Publisher;
use crate::guest::fake::{FakeMachine, PID};
use crate::task::Identity;

const SOON: Duration = Duration::from_secs(10);

fn pod() -> (Arc<Pod>, FakeMachine) {
    let machine = FakeMachine::default();
    let identity = Identity {
        address: "/run/containerd/containerd.sock".into(),
        namespace: "k8s.io".into(),
        sandbox: "p1".into(),
        socket: None,
    };
    let boot = Box::new(machine.clone());
    let publisher = Publisher::collecting();
    let shim = Arc::new(Shim::new(identity, Config::default(), boot, publisher));
    let phase = watch::Sender::new(Phase::Absent);
    (Arc::new(Pod { shim, phase }), machine)
}

#[tokio::test]
async fn a_whole_life() {
    let (pod, machine) = pod();
    pod.do_create("p1", "/var/run/netns/cni-1", b"").unwrap();
    assert!(!pod.do_status("p1").unwrap().ready);
    assert_eq!(pod.do_start("p1").await.unwrap().0, PID);
    assert!(pod.do_status("p1").unwrap().ready);
    assert!(!pod.shim.is_vacant());
    let waiter = tokio::spawn({
        let pod = pod.clone();
        async move { pod.do_wait("p1").await }
    });
    pod.do_stop("p1").await.unwrap();
    let stopped = timeout(SOON, waiter).await.unwrap().unwrap().unwrap();
    assert_eq!(stopped.status, 0);
    assert!(!pod.do_status("p1").unwrap().ready);
    pod.do_stop("p1").await.unwrap();
    pod.do_shutdown("p1").await.unwrap();
    timeout(SOON, pod.shim.stopped()).await.unwrap();
    assert_eq!(machine.calls(), ["boot p1", "destroy"]);
}

#[tokio::test]
async fn a_machine_that_ends_by_itself_ends_the_pod() {
    let (pod, machine) = pod();
    pod.do_create("p1", "", b"").unwrap();
    pod.do_start("p1").await.unwrap();
    machine.crash();
    let stopped = timeout(SOON, pod.do_wait("p1")).await.unwrap().unwrap();
    assert_eq!(stopped.status, KILLED);
}

#[tokio::test]
async fn calls_out_of_turn_are_refused() {
    let (pod, _) = pod();
    let unknown = |result: Result<(), TaskError>| {
        assert!(matches!(result, Err(TaskError::UnknownSandbox { .. })));
    };
    unknown(pod.check("p1"));
    unknown(pod.do_start("p1").await.map(drop));
    unknown(pod.do_create("p2", "", b""));
    pod.do_create("p1", "", b"").unwrap();
    let again = pod.do_create("p1", "", b"").unwrap_err();
    assert_eq!(again.to_string(), "sandbox \"p1\" is created, not absent");
    unknown(pod.check("p2"));
    pod.do_start("p1").await.unwrap();
    let twice = pod.do_start("p1").await.unwrap_err();
    assert_eq!(twice.to_string(), "sandbox \"p1\" is ready, not created");
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_is_refused() {
    let (pod, _) = pod();
    // linux{security_context{namespace_options{network: NODE}}}
    let config = b"\x42\x06\x12\x04\x0a\x02\x08\x02";
    let error = pod.do_create("p1", "", config).unwrap_err();
    assert!(matches!(error, TaskError::HostNetwork));
}

#[tokio::test]
async fn a_pod_that_could_not_start_can_be_shut_down() {
    let (pod, machine) = pod();
    pod.do_create("p1", "", b"").unwrap();
    machine.fail("boot", cube_runtime::Kind::Internal);
    assert!(pod.do_start("p1").await.is_err());
    pod.do_shutdown("p1").await.unwrap();
    timeout(SOON, pod.shim.stopped()).await.unwrap();
}
