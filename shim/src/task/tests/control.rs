// SPDX-License-Identifier: Apache-2.0
//! What is done to a running task.

use super::*;

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
async fn a_name_in_an_update_saves_the_sandbox() {
    let fixture = Fixture::running("t1").await;
    let request = |name: &str| UpdateTaskRequest {
        id: "t1".into(),
        annotations: [("io.cube.snapshot".to_owned(), name.to_owned())].into(),
        ..Default::default()
    };
    fixture.shim.do_update(request("before")).await.unwrap();
    assert_eq!(fixture.machine.calls().last().unwrap(), "snapshot before");
    let refused = fixture.shim.do_update(request("../x")).await;
    assert_eq!(code(refused), Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn a_policy_in_an_update_goes_to_the_sandbox() {
    let fixture = Fixture::running("t1").await;
    let request = |policy: &str| UpdateTaskRequest {
        id: "t1".into(),
        annotations: [("io.cube.egress".to_owned(), policy.to_owned())].into(),
        ..Default::default()
    };
    let policy = r#"{"default":"deny"}"#;
    fixture.shim.do_update(request(policy)).await.unwrap();
    let calls = fixture.machine.calls();
    assert_eq!(calls.last().unwrap(), &format!("set_egress {policy}"));
    let refused = fixture.shim.do_update(request("deny")).await;
    assert_eq!(code(refused), Code::INVALID_ARGUMENT);
    assert_eq!(fixture.machine.calls(), calls);
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
