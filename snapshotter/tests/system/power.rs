// SPDX-License-Identifier: Apache-2.0
//! A power cut, as far as a file system can play one: XFS is shut down without writing its log, the
//! daemon killed, the pool mounted anew from what the disk has.
//!
//! Committed layers must be there with their data, whatever was prepared a second ago too, and no
//! record may name an image that is gone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cube_snapshotter::wire::Kind;

use crate::host;
use crate::world::{Client, Daemon, World};

/// Ten times the delay after which prepared snapshots are written to disk would be sure; this is
/// twice, which a machine has to be very busy to miss.
const SETTLED: Duration = Duration::from_millis(1200);

/// Every image descends from one whose first byte, which ext4 leaves alone, is this.
const TAG: u8 = 0x5a;

/// Makes a layer with the tag written at `offset`.
async fn tagged_layer(client: &Client, name: &str, parent: &str, offset: u64) {
    let prepared = client.prepare("tagged", parent).await.unwrap();
    let image = File::options().write(true).open(prepared.source).unwrap();
    image.write_all_at(&[TAG], offset).unwrap();
    client.commit(name, "tagged").await.unwrap();
}

async fn tag_at(client: &Client, layer: &str, offset: u64) -> u8 {
    let viewed = client.view("tag", layer).await.unwrap();
    let mut tag = [0];
    let image = File::open(viewed.source).unwrap();
    image.read_exact_at(&mut tag, offset).unwrap();
    client.remove("tag").await.unwrap();
    tag[0]
}

fn cut_power(world: &World, daemon: Daemon) {
    let store = world.store();
    let shutdown = ["-x", "-c", "shutdown", store.to_str().unwrap()];
    host::run("xfs_io", shutdown).unwrap();
    daemon.kill();
    for point in host::mounts_below(world.path()) {
        host::unmount(&point);
    }
}

/// Checks that every record has its image with the right content; returns the keys.
async fn whole(world: &World, daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    let last = log.lines().rfind(|line| line.contains("in order")).unwrap();
    assert!(last.contains("lost=0"), "{last}");
    let client = world.client().await;
    let mut keys = Vec::new();
    for info in client.list(&[]).await.unwrap() {
        let look = format!("look {}", info.name);
        let mount = match info.kind() {
            Kind::Committed => client.view(&look, &info.name).await.unwrap(),
            _ => client.mounts(&info.name).await.unwrap(),
        };
        let mut tag = [0];
        File::open(mount.source)
            .unwrap()
            .read_exact_at(&mut tag, 0)
            .unwrap();
        assert_eq!(tag, [TAG], "content of {}", info.name);
        if info.kind() == Kind::Committed {
            client.remove(&look).await.unwrap();
        }
        keys.push(info.name);
    }
    assert_eq!(world.images(), keys.len());
    keys
}

#[tokio::test]
async fn power_cut_takes_only_what_was_prepared_just_before() {
    let Some(world) = World::new() else { return };
    let mut expected = vec!["base".to_owned()];
    let mut daemon = world.start();
    tagged_layer(&world.client().await, "base", "", 0).await;
    for round in 0..4 {
        let client = world.client().await;
        for number in 0..20 {
            let key = format!("old-{round}-{number}");
            client.prepare(&key, "base").await.unwrap();
            expected.push(key);
        }
        // In one half of the rounds time brings them to disk, in the other a later commit does.
        if round % 2 == 0 {
            tokio::time::sleep(SETTLED).await;
        } else {
            let name = format!("layer-{round}");
            tagged_layer(&client, &name, "base", 1).await;
            expected.push(name);
        }
        for number in 0..20 {
            client
                .view(&format!("young-{round}-{number}"), "base")
                .await
                .unwrap();
        }
        cut_power(&world, daemon);
        daemon = world.start();
        let keys = whole(&world, &daemon).await;
        for key in &expected {
            assert!(keys.contains(key), "round {round}: {key} is gone");
        }
        for layer in keys.iter().filter(|key| key.starts_with("layer")) {
            let tag = tag_at(&world.client().await, layer, 1).await;
            assert_eq!(tag, TAG, "round {round}: data of {layer}");
        }
    }
    assert!(daemon.stop().success());
}
