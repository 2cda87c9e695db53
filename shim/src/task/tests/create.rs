// SPDX-License-Identifier: Apache-2.0
//! Create and Start that fail: each leaves nothing.

use super::*;

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

/// CRI's spec for a container of a pod, shortened.
const POD_SPEC: &str = r#"{
    "ociVersion": "1.1.0",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [
        {"type": "pid"}, {"type": "mount"},
        {"type": "uts", "path": "/proc/77/ns/uts"}, {"type": "network", "path": "/proc/77/ns/net"}
    ]}
}"#;

#[tokio::test]
async fn a_container_shares_with_the_pods_first_one_or_with_the_machine_that_is_the_pod() {
    let names_uts = async |held: bool| {
        let fixture = Fixture::new();
        fixture.shim.hold(held);
        let request = fixture.request("t1");
        fs::write(fixture.dir.path().join("t1/config.json"), POD_SPEC).unwrap();
        fixture.shim.do_create(request).await.unwrap();
        let spec = String::from_utf8(fixture.machine.spec()).unwrap();
        assert!(spec.contains("/proc/77/ns/net"), "{spec}");
        spec.contains("/proc/77/ns/uts")
    };
    assert!(names_uts(false).await);
    assert!(!names_uts(true).await);
}
