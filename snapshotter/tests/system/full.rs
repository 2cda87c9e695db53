// SPDX-License-Identifier: Apache-2.0
//! A full disk: one clear refusal, nothing left, and a way out.

use std::fs::{self, File};
use std::io::Write;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tonic::Code;

use crate::world::{World, assert_code, mount};

/// Takes all but `rest` bytes of the store's free space, at least for a moment.
pub fn fill(world: &World, rest: u64) {
    let file = File::options()
        .create(true)
        .append(true)
        .open(world.store().join("filler"))
        .unwrap();
    loop {
        let stat = statvfs(world.store()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let take = free.saturating_sub(rest) & !4095;
        let at = file.metadata().unwrap().len();
        if take == 0 || fallocate(&file, FallocateFlags::empty(), at, take.min(16 << 20)).is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn nearly_full_store_refuses_new_snapshots_and_says_what_to_do() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    client.prepare("before", "").await.unwrap();
    client.prepare("unpacked", "").await.unwrap();
    fill(&world, 32 << 20);
    let images = world.images();
    for refused in [client.prepare("a", "").await, client.view("a", "").await] {
        let text = assert_code(refused, Code::ResourceExhausted);
        assert!(
            text.contains("MiB are free") && text.contains("remove"),
            "{text}"
        );
    }
    assert_code(
        client.commit("c", "unpacked").await,
        Code::ResourceExhausted,
    );
    assert_eq!(world.images(), images);
    assert_eq!(client.keys(&[]).await, ["before", "unpacked"]);
    client.remove("before").await.unwrap();
    fs::remove_file(world.store().join("filler")).unwrap();
    client.commit("c", "unpacked").await.unwrap();
    client.prepare("a", "c").await.unwrap();
}

#[tokio::test]
async fn completely_full_store_can_still_be_emptied() {
    let Some(world) = World::new() else { return };
    let daemon = world.start();
    let client = world.client().await;
    for number in 0..60 {
        client.prepare(&format!("s{number}"), "").await.unwrap();
    }
    fill(&world, 0);
    let mut info = client.stat("s59").await.unwrap();
    info.labels.insert("still".into(), "works".into());
    client.update(info, &[]).await.unwrap();
    for number in 0..50 {
        client.remove(&format!("s{number}")).await.unwrap();
    }
    daemon.kill();
    let _daemon = world.start();
    let client = world.client().await;
    assert_eq!(client.keys(&[]).await.len(), 10);
    assert_eq!(client.stat("s59").await.unwrap().labels["still"], "works");
    fs::remove_file(world.store().join("filler")).unwrap();
    client.prepare("again", "").await.unwrap();
}

#[tokio::test]
async fn layer_that_filled_the_disk_is_not_accepted() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    let prepared = client.prepare("extract", "").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("m"));
    let mut file = File::create(mounted.path().join("big")).unwrap();
    let block = vec![1; 1 << 20];
    for _ in 0..700 {
        if file.write_all(&block).is_err() {
            break;
        }
    }
    drop(file);
    drop(mounted);
    let status = client.commit("layer", "extract").await.unwrap_err();
    let codes = [Code::ResourceExhausted, Code::FailedPrecondition];
    assert!(codes.contains(&status.code()), "{status}");
    client.remove("extract").await.unwrap();
    assert_eq!(world.images(), 0);
    client.prepare("again", "").await.unwrap();
}
