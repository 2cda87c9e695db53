// SPDX-License-Identifier: Apache-2.0
//! Shutdown while a Create is under way: containerd sends one, and one only, when its client has gone.

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

/// A Create that waits in a call to the machine.
struct Held {
    release: Arc<Notify>,
    create: JoinHandle<Result<u32, TaskError>>,
}

impl Held {
    async fn in_call(fixture: &Fixture, call: &'static str, id: &str) -> Self {
        let release = fixture.machine.stick(call);
        let before = fixture.machine.calls().len();
        let (shim, request) = (fixture.shim.clone(), fixture.request(id));
        let create = tokio::spawn(async move { shim.do_create(request).await });
        let arrived = |calls: &[String]| calls[before..].iter().any(|one| one.starts_with(call));
        while !arrived(&fixture.machine.calls()) {
            tokio::task::yield_now().await;
        }
        Self { release, create }
    }

    async fn go_on(self) -> Result<u32, TaskError> {
        self.release.notify_one();
        timeout(SOON, self.create).await.unwrap().unwrap()
    }
}

impl Fixture {
    fn is_stopping(&self) -> bool {
        *self.shim.stopping.borrow()
    }

    /// What containerd does when the client of a Create has gone.
    async fn give_up(&self, id: &str) {
        assert_eq!(code(self.shim.do_delete(id, "").await), Code::NOT_FOUND);
        self.shim.do_shutdown().await.unwrap();
        assert!(!self.is_stopping(), "a Create is under way");
    }
}

#[tokio::test]
async fn a_create_that_was_given_up_and_fails_ends_the_shim() {
    for call in ["boot", "create_container", "create_process"] {
        let fixture = Fixture::new();
        let held = Held::in_call(&fixture, call, "t1").await;
        fixture.give_up("t1").await;
        fixture.machine.fail(call, Kind::Unavailable);
        held.go_on().await.unwrap_err();
        timeout(SOON, fixture.shim.stopped()).await.expect(call);
        assert!(fixture.shim.is_vacant(), "{call}");
    }
}

#[tokio::test]
async fn a_create_that_was_given_up_and_succeeds_ends_the_shim() {
    let fixture = Fixture::new();
    let held = Held::in_call(&fixture, "create_process", "t1").await;
    fixture.give_up("t1").await;
    held.go_on().await.unwrap();
    timeout(SOON, fixture.shim.stopped()).await.unwrap();
}

#[tokio::test]
async fn a_create_that_fails_by_itself_does_not_end_the_shim() {
    let fixture = Fixture::new();
    fixture.machine.fail("boot", Kind::Unavailable);
    let create = fixture.shim.do_create(fixture.request("t1"));
    create.await.unwrap_err();
    assert!(!fixture.is_stopping(), "containerd's Shutdown is to come");
}

/// The Shutdown of a pod's first container meets the Create of its second.
async fn pod_with_a_second_container_under_way() -> (Fixture, Held) {
    let fixture = Fixture::running("t1").await;
    fixture.machine.process("t1", "").exit(0);
    fixture.wait("t1", "").await;
    let held = Held::in_call(&fixture, "create_process", "t2").await;
    fixture.shim.do_delete("t1", "").await.unwrap();
    fixture.shim.do_shutdown().await.unwrap();
    (fixture, held)
}

#[tokio::test]
async fn a_further_container_outlives_the_shutdown_of_the_first() {
    let (fixture, held) = pod_with_a_second_container_under_way().await;
    held.go_on().await.unwrap();
    assert!(!fixture.is_stopping());
    // Nor is that Shutdown owed any longer.
    fixture.machine.fail("create_container", Kind::Internal);
    let third = fixture.shim.do_create(fixture.request("t3"));
    third.await.unwrap_err();
    assert!(!fixture.is_stopping());
}

#[tokio::test]
async fn a_further_container_that_fails_after_the_shutdown_of_the_first_ends_the_shim() {
    let (fixture, held) = pod_with_a_second_container_under_way().await;
    fixture.machine.fail("create_process", Kind::Internal);
    held.go_on().await.unwrap_err();
    timeout(SOON, fixture.shim.stopped()).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_while_the_sandbox_api_keeps_the_machine_ends_nothing() {
    let fixture = Fixture::new();
    fixture.shim.hold(true);
    let held = Held::in_call(&fixture, "create_process", "t2").await;
    fixture.give_up("t2").await;
    fixture.machine.fail("create_process", Kind::Internal);
    held.go_on().await.unwrap_err();
    assert!(!fixture.is_stopping());
}
