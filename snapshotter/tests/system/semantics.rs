// SPDX-License-Identifier: Apache-2.0
//! What containerd demands of every snapshotter, case by case: keys, parents and kinds over the wire,
//! and the contents of real mounts. The cases are those of containerd's own suite, plus ours.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_snapshotter::wire::Kind;
use tonic::Code;

use crate::host;
use crate::world::{Client, World, assert_code, labels, mount};

/// Prepares `name` on `parent`, lets `change` work in the mounted root, commits.
async fn layer(
    world: &World,
    client: &Client,
    name: &str,
    parent: &str,
    change: impl FnOnce(&Path),
) {
    let key = format!("extract {name}");
    let prepared = client.prepare(&key, parent).await.unwrap();
    let mounted = mount(&prepared, &world.path().join(name));
    change(mounted.path());
    drop(mounted);
    client.commit(name, &key).await.unwrap();
}

/// Mounts a view of `parent` and lets `look` see it.
async fn look(world: &World, client: &Client, parent: &str, look: impl FnOnce(&Path)) {
    let key = format!("look {parent}");
    let viewed = client.view(&key, parent).await.unwrap();
    let mounted = mount(&viewed, &world.path().join("look"));
    look(mounted.path());
    drop(mounted);
    client.remove(&key).await.unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn life_of_an_image_and_its_containers() {
    let Some(world) = World::new() else { return };
    let daemon = world.start();
    let client = world.client().await;
    layer(&world, &client, "one", "", |root| {
        assert!(names(root).is_empty(), "an empty snapshot shows nothing");
        fs::write(root.join("foo"), "foo\n").unwrap();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
    })
    .await;
    layer(&world, &client, "two", "one", |root| {
        fs::write(root.join("bar"), "bar\n").unwrap();
        fs::write(root.join("foo"), "bar\n").unwrap();
        fs::remove_dir_all(root.join("a/b")).unwrap();
    })
    .await;
    look(&world, &client, "two", |root| {
        assert_eq!(names(root), ["a", "bar", "foo"]);
        assert_eq!(names(&root.join("a")), [""; 0]);
        assert_eq!(fs::read_to_string(root.join("foo")).unwrap(), "bar\n");
    })
    .await;
    look(&world, &client, "one", |root| {
        assert_eq!(fs::read_to_string(root.join("foo")).unwrap(), "foo\n");
        assert_eq!(names(&root.join("a")), ["b"]);
    })
    .await;
    let one = client.stat("one").await.unwrap();
    let two = client.stat("two").await.unwrap();
    assert_eq!((one.parent.as_str(), two.parent.as_str()), ("", "one"));
    assert_eq!(two.kind(), Kind::Committed);
    assert_code(client.stat("extract two").await, Code::NotFound);
    assert_eq!(client.list(&[]).await.unwrap(), [one, two]);
    assert_code(client.remove("one").await, Code::FailedPrecondition);
    client.remove("two").await.unwrap();
    client.remove("one").await.unwrap();
    assert_eq!(world.images(), 0);
    assert!(host::settles_to_loops(world.path(), 1));
    assert!(daemon.stop().success());
    assert!(host::mounts_below(world.path()).is_empty());
    assert!(host::settles_to_loops(world.path(), 0));
    assert!(!world.socket().exists());
}

#[tokio::test]
async fn keys_parents_and_kinds() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let c = world.client().await;
    c.prepare("base-a", "").await.unwrap();
    assert_code(c.prepare("x", "base-a").await, Code::InvalidArgument);
    assert_code(c.view("x", "base-a").await, Code::InvalidArgument);
    assert_code(c.prepare("x", "nobody").await, Code::NotFound);
    c.commit("base", "base-a").await.unwrap();
    for key in ["active", "view"] {
        match key {
            "active" => c.prepare(key, "base").await.unwrap(),
            _ => c.view(key, "base").await.unwrap(),
        };
        assert_code(c.prepare(key, "base").await, Code::AlreadyExists);
        assert_code(c.view(key, "base").await, Code::AlreadyExists);
        assert_code(c.prepare(key, "").await, Code::AlreadyExists);
    }
    assert_code(c.prepare("base", "").await, Code::AlreadyExists);
    assert_code(c.commit("base", "active").await, Code::AlreadyExists);
    assert_code(c.commit("new", "view").await, Code::FailedPrecondition);
    assert_code(c.commit("new", "base").await, Code::FailedPrecondition);
    assert_code(c.commit("new", "nobody").await, Code::NotFound);
    assert_code(c.mounts("base").await, Code::FailedPrecondition);
    assert_code(c.mounts("nobody").await, Code::NotFound);
    assert_code(c.stat("nobody").await, Code::NotFound);
    assert_code(c.usage("nobody").await, Code::NotFound);
    assert_code(c.remove("nobody").await, Code::NotFound);
    let text = assert_code(c.remove("base").await, Code::FailedPrecondition);
    assert!(text.starts_with("cannot remove"), "{text}");
    assert_code(c.prepare("", "").await, Code::InvalidArgument);
    assert_code(
        c.prepare(&"k".repeat(5000), "").await,
        Code::InvalidArgument,
    );
    assert_code(c.commit("", "active").await, Code::InvalidArgument);

    let active = c.mounts("active").await.unwrap();
    assert_eq!(
        (active.r#type.as_str(), active.target.as_str()),
        ("ext4", "")
    );
    assert_eq!(active.options, ["rw", "loop"]);
    assert_eq!(c.mounts("view").await.unwrap().options, ["ro", "loop"]);
    assert_eq!(world.images(), 3);
    c.remove("active").await.unwrap();
    c.prepare("active", "").await.unwrap();
    c.remove("view").await.unwrap();
    c.remove("base").await.unwrap();
    c.commit("base", "active").await.unwrap();
    assert_eq!(world.images(), 1);
}

#[tokio::test]
async fn contents_through_layers() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    layer(&world, &client, "one", "", |root| {
        fs::create_dir(root.join("dir1")).unwrap();
        fs::write(root.join("dir1/f1"), "Hello").unwrap();
        fs::create_dir(root.join("dir2")).unwrap();
        fs::write(root.join("dir2/f2"), "...").unwrap();
        fs::write(root.join("owned"), "x").unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
    })
    .await;
    layer(&world, &client, "two", "one", |root| {
        fs::create_dir(root.join("dir3")).unwrap();
        fs::rename(root.join("dir1/f1"), root.join("dir3/f1")).unwrap();
        fs::remove_dir(root.join("dir1")).unwrap();
        fs::hard_link(root.join("dir2/f2"), root.join("dir3/f2")).unwrap();
        fs::remove_file(root.join("dir2/f2")).unwrap();
        fs::set_permissions(root.join("dir2"), fs::Permissions::from_mode(0o1777)).unwrap();
        chown(root.join("owned"), Some(5001), Some(5002)).unwrap();
        symlink("dir3/f1", root.join("link")).unwrap();
    })
    .await;
    look(&world, &client, "two", |root| {
        assert_eq!(names(root), ["dir2", "dir3", "link", "owned"]);
        assert_eq!(names(&root.join("dir2")), [""; 0]);
        assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "Hello");
        assert_eq!(fs::read_to_string(root.join("dir3/f2")).unwrap(), "...");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(root), 0o751);
        assert_eq!(mode(&root.join("dir2")), 0o1777);
        let owned = fs::metadata(root.join("owned")).unwrap();
        assert_eq!((owned.uid(), owned.gid()), (5001, 5002));
    })
    .await;
}

#[tokio::test]
async fn a_long_chain_of_layers_adds_up() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    let mut parent = String::new();
    for number in 0..40 {
        let name = format!("layer{number}");
        let write = |root: &Path| fs::write(root.join(number.to_string()), "x").unwrap();
        layer(&world, &client, &name, &parent, write).await;
        parent = name;
    }
    look(&world, &client, &parent, |root| {
        assert_eq!(names(root).len(), 40);
    })
    .await;
}

#[tokio::test]
async fn views_are_read_only_and_writers_are_apart() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    layer(&world, &client, "base", "", |root| {
        fs::write(root.join("shared"), "of the base").unwrap();
    })
    .await;
    look(&world, &client, "base", |root| {
        assert!(fs::write(root.join("new"), "x").is_err());
        assert!(fs::write(root.join("shared"), "x").is_err());
    })
    .await;
    let (a, b) = (
        client.prepare("a", "base").await.unwrap(),
        client.prepare("b", "base").await.unwrap(),
    );
    let (a, b) = (
        mount(&a, &world.path().join("a")),
        mount(&b, &world.path().join("b")),
    );
    fs::write(a.path().join("shared"), "of a").unwrap();
    fs::write(b.path().join("own"), "of b").unwrap();
    assert_eq!(
        fs::read_to_string(b.path().join("shared")).unwrap(),
        "of the base"
    );
    assert!(!a.path().join("own").exists());
    drop((a, b));
    look(&world, &client, "base", |root| {
        assert_eq!(names(root), ["shared"]);
    })
    .await;
}

#[tokio::test]
async fn a_mounted_image_is_not_committed() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    let prepared = client.prepare("busy", "").await.unwrap();
    let mounted = mount(&prepared, &world.path().join("busy"));
    fs::write(mounted.path().join("file"), "x").unwrap();
    let text = assert_code(
        client.commit("done", "busy").await,
        Code::FailedPrecondition,
    );
    assert!(
        text.contains("still mounted") && text.contains(&prepared.source),
        "{text}"
    );
    assert_eq!(client.stat("busy").await.unwrap().kind(), Kind::Active);

    // One that is unmounted while Commit looks is waited for.
    let waiting = client.clone();
    let commit = tokio::spawn(async move { waiting.commit("done", "busy").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(mounted);
    commit.await.unwrap().unwrap();
    look(&world, &client, "done", |root| {
        assert_eq!(names(root), ["file"])
    })
    .await;
}

#[tokio::test]
async fn labels_and_times() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let pairs = [("containerd.io/snapshot.ref", "r"), ("empty", "")];
    client.prepare_labelled("a", "", &pairs).await.unwrap();
    let mut info = client.stat("a").await.unwrap();
    assert_eq!(info.labels, labels(&[("containerd.io/snapshot.ref", "r")]));
    let created = info.created_at.unwrap();
    assert!(u64::try_from(created.seconds).unwrap() >= start.as_secs());
    assert_eq!(info.updated_at, Some(created));

    info.parent = "ignored".into();
    info.labels = labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")]);
    let updated = client.update(info.clone(), &[]).await.unwrap();
    assert_eq!(
        (updated.parent.as_str(), &updated.labels),
        ("", &info.labels)
    );
    assert_eq!(updated.created_at, Some(created));
    let later = updated.updated_at.unwrap();
    assert!((later.seconds, later.nanos) > (created.seconds, created.nanos));

    info.labels = labels(&[("l1", "new"), ("l4", "v4")]);
    let updated = client
        .update(info.clone(), &["labels.l1", "labels.l2"])
        .await
        .unwrap();
    assert_eq!(updated.labels, labels(&[("l1", "new"), ("l3", "v3")]));
    let updated = client.update(info.clone(), &["labels"]).await.unwrap();
    assert_eq!(updated.labels, info.labels);
    for path in ["parent", "kind", "name", "label"] {
        assert_code(
            client.update(info.clone(), &[path]).await,
            Code::InvalidArgument,
        );
    }
    info.name = "nobody".into();
    assert_code(client.update(info, &[]).await, Code::NotFound);

    client
        .commit_labelled("c", "a", &[("only", "these")])
        .await
        .unwrap();
    let committed = client.stat("c").await.unwrap();
    assert_eq!(committed.labels, labels(&[("only", "these")]));
    let at = committed.created_at.unwrap();
    assert!((at.seconds, at.nanos) > (created.seconds, created.nanos));
}

#[tokio::test]
async fn labels_too_big_for_an_attribute_are_kept_all_the_same() {
    let Some(world) = World::new() else { return };
    let daemon = world.start();
    let client = world.client().await;
    let value = "v".repeat(4000);
    let names: Vec<String> = (0..40)
        .map(|n| format!("containerd.io/snapshot/{n}"))
        .collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), value.as_str())).collect();
    client.prepare_labelled("big", "", &pairs).await.unwrap();
    daemon.kill();
    let _daemon = world.start();
    let client = world.client().await;
    assert_eq!(client.stat("big").await.unwrap().labels, labels(&pairs));
    let huge = "v".repeat(2 << 20);
    let refused = client.prepare_labelled("huge", "", &[("l", &huge)]).await;
    assert_code(refused, Code::InvalidArgument);
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_streamed() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    client.prepare("x", "").await.unwrap();
    client
        .commit_labelled("base", "x", &[("a.b", "v")])
        .await
        .unwrap();
    for number in 0..250 {
        client
            .prepare(&format!("default/{number:03}/c"), "base")
            .await
            .unwrap();
    }
    client.view("view", "base").await.unwrap();
    let all = client.keys(&[]).await;
    assert_eq!(all.len(), 252);
    assert!(all.is_sorted());
    assert_eq!(client.keys(&["kind==active"]).await.len(), 250);
    assert_eq!(client.keys(&["parent==base,kind==view"]).await, ["view"]);
    assert_eq!(
        client.keys(&["labels.\"a.b\"==v", "name==view"]).await,
        ["base", "view"]
    );
    assert_eq!(client.keys(&["name~=/24[0-9].c$/"]).await.len(), 10);
    assert_code(client.list(&["name="]).await, Code::InvalidArgument);
    assert_code(client.list(&["name~=("]).await, Code::InvalidArgument);
}

#[tokio::test]
async fn usage_is_what_was_added() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    const MIB: i64 = 1 << 20;
    client.prepare("empty", "").await.unwrap();
    let empty = client.usage("empty").await.unwrap();
    assert_eq!((empty.size, empty.inodes), (0, 0));
    layer(&world, &client, "one", "", |root| {
        fs::write(root.join("8m"), vec![1; 8 << 20]).unwrap();
    })
    .await;
    layer(&world, &client, "two", "one", |root| {
        fs::write(root.join("3m"), vec![1; 3 << 20]).unwrap();
        fs::write(root.join("small"), "x").unwrap();
    })
    .await;
    client.prepare("child", "two").await.unwrap();
    let one = client.usage("one").await.unwrap();
    let two = client.usage("two").await.unwrap();
    assert!((8 * MIB..9 * MIB).contains(&one.size), "{one:?}");
    assert!((3 * MIB..4 * MIB).contains(&two.size), "{two:?}");
    assert_eq!((one.inodes, two.inodes), (1, 2));
    assert_eq!(client.usage("child").await.unwrap().size, 0);
}

#[tokio::test]
async fn a_burst_of_prepares_is_served_whole() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    layer(&world, &client, "base", "", |root| {
        fs::write(root.join("f"), vec![7; 1 << 20]).unwrap();
    })
    .await;
    let burst = (0..100).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.prepare(&format!("c{}", number % 90), "base").await })
    });
    let burst: Vec<_> = burst.collect();
    let (mut made, mut refused) = (0, 0);
    for one in burst {
        match one.await.unwrap() {
            Ok(_) => made += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status}");
                refused += 1;
            }
        }
    }
    assert_eq!((made, refused), (90, 10));
    assert_eq!(world.images(), 91);
}

#[tokio::test]
async fn litter_is_cleaned_up_and_other_files_stay() {
    let Some(world) = World::new() else { return };
    let _daemon = world.start();
    let client = world.client().await;
    client.prepare("a", "").await.unwrap();
    let images = world.store().join("images");
    fs::write(images.join("99.img"), "litter").unwrap();
    fs::write(images.join("notes.txt"), "someone's").unwrap();
    client.cleanup().await.unwrap();
    assert_eq!(names(&images), ["1.img", "notes.txt"]);
}
