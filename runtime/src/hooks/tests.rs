// SPDX-License-Identifier: Apache-2.0
//! The hooks as real programs, and what they are told.
use super::*;
use serde_json::Value;
use std::fs;
use std::time::Instant;

fn hooks(bundle: &Path, hooks: Value) -> Hooks {
    let spec: Spec = serde_json::from_value(json!({
        "ociVersion": "1.1.0",
        "annotations": {"a": "b"},
        "hooks": hooks,
    }))
    .unwrap();
    Hooks::of(&spec, "t1", 4242, bundle)
}

fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

#[tokio::test]
async fn a_hook_gets_the_state_its_arguments_and_only_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = shell("cat > state; echo $0 $1 $FOO ${HOME:-none} > args");
    hook["args"] = json!(["sh", "-c", hook["args"][2], "zero", "one"]);
    hook["env"] = json!(["FOO=bar=baz"]);
    let hooks = hooks(dir.path(), json!({"createRuntime": [hook]}));
    hooks.run(Point::CreateRuntime).await.unwrap();
    let state: Value =
        serde_json::from_slice(&fs::read(dir.path().join("state")).unwrap()).unwrap();
    assert_eq!(
        state,
        json!({
            "ociVersion": "1.1.0",
            "id": "t1",
            "status": "creating",
            "pid": 4242,
            "bundle": dir.path(),
            "annotations": {"a": "b"},
        })
    );
    let args = fs::read_to_string(dir.path().join("args")).unwrap();
    assert_eq!(args, "zero one bar=baz none\n");
}

#[tokio::test]
async fn the_first_failure_ends_the_list_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let list = json!([
        shell("touch a"),
        shell("echo no net >&2; exit 3"),
        shell("touch b")
    ]);
    let hooks = hooks(dir.path(), json!({"prestart": list}));
    let error = hooks.run(Point::Prestart).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("prestart hook /bin/sh failed with exit code 3: no net"),
        "{text}"
    );
    assert!(dir.path().join("a").exists());
    assert!(!dir.path().join("b").exists());
}

#[tokio::test]
async fn later_points_go_on_after_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let list = json!([shell("exit 1"), shell("cat > state")]);
    let hooks = hooks(dir.path(), json!({"poststop": list}));
    hooks.run_all(Point::Poststop).await;
    let state = fs::read_to_string(dir.path().join("state")).unwrap();
    assert!(
        state.contains("\"stopped\"") && !state.contains("pid"),
        "{state}"
    );
}

#[tokio::test]
async fn a_hook_that_hangs_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut hook = shell("exec sleep 60");
    hook["timeout"] = json!(1);
    let hooks = hooks(dir.path(), json!({"createRuntime": [hook]}));
    let began = Instant::now();
    let error = hooks.run(Point::CreateRuntime).await.unwrap_err();
    assert!(matches!(error, HookError::Timeout { limit_s: 1, .. }));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn neither_unread_state_nor_much_output_nor_a_lingering_child_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let list = json!([
        shell("exec <&-; true"),
        shell("head -c 300000 /dev/zero >&2"),
        shell("sleep 30 & exit 0"),
    ]);
    let hooks = hooks(dir.path(), json!({"createRuntime": list}));
    let began = Instant::now();
    hooks.run(Point::CreateRuntime).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_missing_hook_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = hooks(
        dir.path(),
        json!({"createContainer": [{"path": "/nonexistent/hook"}]}),
    );
    let error = hooks.run(Point::CreateContainer).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("createContainer hook /nonexistent/hook")
    );
}
