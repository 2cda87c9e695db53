// SPDX-License-Identifier: Apache-2.0
//! What cannot work gives one clear error and leaves nothing behind.

use serde_json::{Value, json};
use ttrpc::Code;

use crate::spec::{process, shell, spec};
use crate::world::{World, refusal, soon, world};

#[tokio::test]
async fn commands_that_cannot_run_say_why_in_known_words() {
    let world = world!();
    for (command, text) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        (
            "/nope",
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        ("/etc", "exec: \"/etc\": is a directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let result = world.run(&spec(process(&[command]))).await;
        assert_eq!(refusal(result), (Code::UNKNOWN, text.to_owned()));
        world.assert_clean();
    }
    world.idle("c").await;
    let (_, text) = refusal(world.exec("c", &process(&["nope"])).await);
    assert_eq!(text, "exec: \"nope\": executable file not found in $PATH");
    // The name is free again.
    assert_eq!(world.exec("c", &shell("true")).await.unwrap().status, 0);
}

#[tokio::test]
async fn a_program_for_another_machine_fails_at_the_start() {
    let world = world!();
    world
        .create("c", &spec(process(&["/etc/foreign"])))
        .await
        .unwrap();
    let (_, _streams) = world.create_process("c", "", None, false).await.unwrap();
    let (code, text) = refusal(world.start_process("c", "").await);
    assert_eq!(
        (code, text.as_str()),
        (Code::UNKNOWN, "exec /etc/foreign: exec format error")
    );
    world.delete_process("c", "").await.unwrap();
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn specs_that_ask_for_what_is_missing_are_refused_before_anything_is_made() {
    let world = world!();
    type Change = fn(&mut Value);
    let table: [(Change, Code, &str); 7] = [
        (
            |spec| spec["mounts"][0] = json!({"destination": "/etc/hosts", "type": "bind", "source": "/h", "options": ["rbind", "ro"]}),
            Code::UNIMPLEMENTED,
            "mounts: /etc/hosts: bind mounts from the host (here /h) are not supported",
        ),
        (
            |spec| spec["linux"]["namespaces"][0] = json!({"type": "user"}),
            Code::UNIMPLEMENTED,
            "linux.namespaces: user namespaces are not supported",
        ),
        (
            |spec| spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            Code::INVALID_ARGUMENT,
            "linux.seccomp: action SCMP_ACT_NOTIFY is not supported",
        ),
        (
            |spec| spec["process"]["args"] = json!([]),
            Code::INVALID_ARGUMENT,
            "process.args: there is no command",
        ),
        (
            |spec| spec["hooks"] = json!({"startContainer": [{"path": "/x"}]}),
            Code::UNIMPLEMENTED,
            "hooks.startContainer: hooks inside the guest are not supported",
        ),
        (
            |spec| spec["linux"]["resources"]["unified"] = json!({"no.such": "1"}),
            Code::INTERNAL,
            "no such file or directory",
        ),
        (
            |spec| *spec = json!([1]),
            Code::INVALID_ARGUMENT,
            "cannot read the runtime spec: invalid",
        ),
    ];
    for (change, code, text) in table {
        let mut spec = spec(shell("true"));
        change(&mut spec);
        let (found, message) = refusal(world.create("c", &spec).await);
        assert!(
            found == code && message.contains(text),
            "{found:?} {message}"
        );
        world.assert_clean();
    }
    world.create("c", &spec(shell("true"))).await.unwrap();
    let (code, _) = refusal(world.create("c", &spec(shell("true"))).await);
    assert_eq!(code, Code::ALREADY_EXISTS);
}

#[tokio::test]
async fn disks_that_cannot_be_mounted_are_named() {
    let world = world!();
    std::fs::File::create(world.dir().join("slots/cube-slot-5")).unwrap();
    let (code, text) = refusal(world.create_on(5, "c", &spec(shell("true"))).await);
    assert_eq!(code, Code::INTERNAL);
    assert!(
        text.contains("cannot mount the ext4 root file system from"),
        "{text}"
    );
    world.assert_clean();
    let (_, text) = refusal(world.create_on(6, "c", &spec(shell("true"))).await);
    assert!(text.contains("slot 6"), "{text}");
    let mut request = cube_protocol::v1::agent::CreateContainerRequest::new();
    request.container_id = "c".to_owned();
    request.spec_json = b"{\"linux\":{\"namespaces\":[{\"type\":\"mount\"}]}}".to_vec();
    request.root.mut_or_insert_default().fs_type = "btrfs".to_owned();
    let (code, text) = refusal(world.client.create_container(soon(), &request).await);
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(text.contains("btrfs"), "{text}");
    world.assert_clean();
}

#[tokio::test]
async fn unknown_names_are_not_found_and_deleting_them_is_fine() {
    let world = world!();
    assert_eq!(
        refusal(world.start_process("x", "").await).0,
        Code::NOT_FOUND
    );
    assert_eq!(
        refusal(world.signal("x", "", 9, true).await).0,
        Code::NOT_FOUND
    );
    world.delete("x").await.unwrap();
    world.delete_process("x", "y").await.unwrap();
    let (code, _) = refusal(world.create("../x", &spec(shell("true"))).await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn a_machine_is_claimed_once_and_by_a_whole_claim() {
    let world = match World::unclaimed().await {
        Ok(world) => world,
        Err(missing) => return crate::world::skip(missing),
    };
    let refused = world.create("c", &spec(shell("true"))).await;
    let (code, text) = refusal(refused);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert_eq!(text, "the machine has not been claimed yet");
    let mut claim = cube_protocol::v1::agent::ClaimRequest::new();
    claim.entropy = vec![0; 31];
    let (code, _) = refusal(world.client.claim(soon(), &claim).await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
    // A claim that failed did not claim.
    claim.entropy.push(0);
    world.client.claim(soon(), &claim).await.unwrap();
    let (code, text) = refusal(world.client.claim(soon(), &claim).await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert_eq!(text, "the machine has been claimed already");
    world.create("c", &spec(shell("true"))).await.unwrap();
    world.delete("c").await.unwrap();
    world.assert_clean();
}
