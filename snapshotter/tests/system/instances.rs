// SPDX-License-Identifier: Apache-2.0
//! Second instances, foreign sockets, and wrong arguments: one clear message, nothing disturbed.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::host;
use crate::world::{World, binary};

#[tokio::test]
async fn second_instance_on_the_same_root_is_refused() {
    let Some(world) = World::new() else { return };
    let first = world.start();
    let mut second = Command::new(binary());
    second.arg("--root").arg(world.root());
    second.arg("--address").arg(world.path().join("other.sock"));
    let output = second.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!(
        "cube-snapshotter: another cube-snapshotter (process {}) uses {}\n",
        first.pid(),
        world.root().display()
    );
    assert_eq!(text, wanted);
    assert!(!world.path().join("other.sock").exists());
    world.client().await.prepare("a", "").await.unwrap();
}

#[tokio::test]
async fn second_instance_on_the_same_socket_is_refused_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let first = world.start();
    let root = world.path().join("root2");
    let mut second = Command::new(binary());
    second.arg("--root").arg(&root);
    second.arg("--address").arg(world.socket());
    let output = second.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains(&format!("process {}", first.pid())), "{text}");
    assert!(
        text.contains(&world.socket().display().to_string()),
        "{text}"
    );
    assert!(host::mounts_below(&root).is_empty());
    assert!(!root.join("pool.xfs").exists());
    world.client().await.prepare("a", "").await.unwrap();
}

#[test]
fn a_foreign_socket_is_respected() {
    let Some(world) = World::new() else { return };
    let _foreign = UnixListener::bind(world.socket()).unwrap();
    let (status, log) = world.spawn(world.command()).ended();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("in use by another program"), "{log}");
    assert!(world.socket().exists());
}

#[test]
fn a_store_that_lost_its_catalog_is_not_guessed_at() {
    let Some(world) = World::new() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let daemon = world.start();
    runtime.block_on(async { world.client().await.prepare("a", "").await.unwrap() });
    daemon.kill();
    fs::remove_file(world.store().join("catalog.redb")).unwrap();
    let (status, log) = world.spawn(world.command()).ended();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("catalog.redb back"), "{log}");
    // What failed on the way up is taken down again.
    assert!(host::mounts_below(world.path()).is_empty());
}

#[test]
fn a_store_that_would_be_hidden_is_refused() {
    let Some(world) = World::new() else { return };
    fs::create_dir_all(world.store()).unwrap();
    fs::write(world.store().join("precious"), "").unwrap();
    let (status, log) = world.spawn(world.command()).ended();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot clone files"), "{log}");
    assert!(!world.root().join("pool.xfs").exists());
}
