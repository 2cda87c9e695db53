// SPDX-License-Identifier: Apache-2.0
//! Where the store lives: an own XFS on ext4 and tmpfs, none on XFS and Btrfs; kills and restarts.

use std::fs::{self, File};
use std::time::Duration;

use crate::host::{self, Mounted};
use crate::world::{World, mount};

#[tokio::test]
async fn own_xfs_outlives_a_kill_and_goes_with_a_clean_stop() {
    let Some(world) = World::new() else { return };
    let daemon = world.start();
    assert!(daemon.log().contains("made an own XFS"), "{}", daemon.log());
    world.client().await.prepare("a", "").await.unwrap();
    daemon.kill();
    assert_eq!(host::mounts_below(world.path()), [world.store()]);

    let daemon = world.start();
    assert!(daemon.log().contains("still mounted"), "{}", daemon.log());
    assert_eq!(world.client().await.keys(&[]).await, ["a"]);
    assert!(daemon.stop().success());
    assert!(host::mounts_below(world.path()).is_empty());
    assert!(host::settles_to_loops(world.path(), 0));

    let daemon = world.start();
    assert_eq!(world.client().await.keys(&[]).await, ["a"]);
    assert!(daemon.stop().success());
}

#[tokio::test]
async fn own_xfs_stays_while_an_image_is_in_use() {
    let Some(world) = World::new() else { return };
    let daemon = world.start();
    let prepared = world.client().await.prepare("a", "").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("m"));
    assert!(daemon.stop().success());
    fs::write(mounted.path().join("still"), "works").unwrap();
    drop(mounted);
    let daemon = world.start();
    let prepared = world.client().await.mounts("a").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("m"));
    assert_eq!(
        fs::read_to_string(mounted.path().join("still")).unwrap(),
        "works"
    );
    drop(mounted);
    assert!(host::settles_to_loops(world.path(), 1));
    assert!(daemon.stop().success());
    assert!(host::settles_to_loops(world.path(), 0));
}

#[tokio::test]
async fn killed_at_any_moment_of_the_first_start() {
    let Some(world) = World::new() else { return };
    for round in 0..12 {
        let daemon = world.spawn(world.command());
        std::thread::sleep(Duration::from_millis(round * 9));
        daemon.kill();
    }
    let daemon = world.start();
    world.client().await.prepare("a", "").await.unwrap();
    let left: Vec<_> = ["", "store", "store/base", "store/images"]
        .iter()
        .flat_map(|dir| fs::read_dir(world.root().join(dir)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".new"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(host::settles_to_loops(world.path(), 1));
    assert!(daemon.stop().success());
    assert!(host::settles_to_loops(world.path(), 0));
}

#[tokio::test]
async fn tmpfs_gets_an_own_xfs() {
    let Some(world) = World::new() else { return };
    let options = ["size=1g".to_owned()];
    let tmpfs = Mounted::new("tmpfs", "tmpfs", &options, &world.root()).unwrap();
    let daemon = world.start();
    world.client().await.prepare("a", "").await.unwrap();
    assert!(daemon.stop().success());
    drop(tmpfs);
}

async fn on_a_cloning_file_system(mkfs: &str, kind: &str) {
    let Some(world) = World::new() else { return };
    if !host::has(mkfs)
        || !fs::read_to_string("/proc/filesystems")
            .unwrap()
            .contains(kind)
    {
        eprintln!("skipped: this test needs {mkfs} and {kind} in the kernel");
        return;
    }
    let file = world.path().join("disk");
    File::create(&file).unwrap().set_len(600 << 20).unwrap();
    host::run(mkfs, ["-q".as_ref(), file.as_os_str()]).unwrap();
    let source = file.to_str().unwrap();
    let disk = Mounted::new(kind, source, &["loop".to_owned()], &world.root()).unwrap();
    let daemon = world.start();
    let client = world.client().await;
    let prepared = client.prepare("a", "").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("m"));
    fs::write(mounted.path().join("f"), "x").unwrap();
    drop(mounted);
    client.commit("c", "a").await.unwrap();
    client.prepare("b", "c").await.unwrap();
    daemon.kill();
    let daemon = world.start();
    let client = world.client().await;
    assert_eq!(client.keys(&[]).await, ["b", "c"]);
    let prepared = client.mounts("b").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("m"));
    assert_eq!(fs::read_to_string(mounted.path().join("f")).unwrap(), "x");
    drop(mounted);
    assert!(!world.root().join("pool.xfs").exists());
    assert!(daemon.stop().success());
    drop(disk);
}

#[tokio::test]
async fn xfs_is_used_as_it_is() {
    on_a_cloning_file_system("mkfs.xfs", "xfs").await;
}

#[tokio::test]
async fn btrfs_is_used_as_it_is() {
    on_a_cloning_file_system("mkfs.btrfs", "btrfs").await;
}
