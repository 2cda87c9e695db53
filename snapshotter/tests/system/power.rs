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

async fn tagged_layer(client: &Client, name: &str) {
    let prepared = client.prepare("tagged", "").await.unwrap();
    let image = File::options().write(true).open(prepared.source).unwrap();
    image.write_all_at(&[TAG], 0).unwrap();
    client.commit(name, "tagged").await.unwrap();
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
    tagged_layer(&world.client().await, "base").await;
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
            let (key, name) = (format!("work-{round}"), format!("layer-{round}"));
            client.prepare(&key, "base").await.unwrap();
            client.commit(&name, &key).await.unwrap();
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
    }
    assert!(daemon.stop().success());
}
