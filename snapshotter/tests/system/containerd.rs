// SPDX-License-Identifier: Apache-2.0
//! A real containerd, whichever is first in PATH, with the snapshotter as its proxy plugin: images
//! unpacked, containers prepared, garbage collected, both killed and started again.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::full;
use crate::host::{self, Mounted, run};
use crate::world::World;

const IMAGE: &str = "example.org/cube/layers:1";

/// A containerd of this test's own.
struct Containerd {
    child: Child,
    dir: PathBuf,
}

impl Containerd {
    fn start(world: &World) -> Self {
        let dir = world.path().join("containerd");
        fs::create_dir_all(&dir).unwrap();
        let config = dir.join("config.toml");
        fs::write(&config, configuration(&dir, &world.socket())).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(containerd.dir.join("c.sock")).is_err()
            || containerd.ctr(&["version"]).is_err()
        {
            let log = fs::read_to_string(containerd.dir.join("log")).unwrap();
            assert!(Instant::now() < deadline, "containerd did not start: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let socket = self.dir.join("c.sock");
        let socket = socket.to_str().unwrap();
        run("ctr", ["--address", socket].iter().chain(arguments))
    }

    fn snapshots(&self, arguments: &[&str]) -> Result<String, String> {
        let verb = ["snapshots", "--snapshotter", "cube"];
        self.ctr(&verb.iter().chain(arguments).copied().collect::<Vec<_>>())
    }

    fn import(&self, archive: &Path) -> Result<String, String> {
        // From 2.1 the daemon unpacks, into what its configuration names, unless told --local.
        let help = self.ctr(&["images", "import", "--help"])?;
        let local = help.contains("--local").then_some("--local");
        let import = ["images", "import", "--snapshotter", "cube"];
        let archive = [archive.to_str().unwrap()];
        let words = import.into_iter().chain(local).chain(archive);
        self.ctr(&words.collect::<Vec<_>>())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn configuration(dir: &Path, snapshotter: &Path) -> String {
    let dir = dir.display();
    let snapshotter = snapshotter.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images",
    "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.erofs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{dir}/c.sock"
[ttrpc]
  address = "{dir}/c.ttrpc.sock"
# The collector waits a multiple of the time that its last run took: 50 by default, which on a busy
# machine is longer than anybody wants to wait here.
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.5
[proxy_plugins.cube]
  type = "snapshot"
  address = "{snapshotter}"
"#
    )
}

/// An image in docker's archive format: three layers, one of which deletes. With a static busybox, if
/// the host has one, so that it can run.
fn archive(dir: &Path) -> PathBuf {
    let layers: [&[(&str, &str)]; 3] = [
        &[("etc/name", "one"), ("gone/file", "x"), ("kept/file", "y")],
        &[("etc/name", "two"), (".wh.gone", ""), ("kept/new", "z")],
        &[("top", "layer")],
    ];
    let work = dir.join("archive");
    let bin = work.join("tree0/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).ok();
    let mut names = Vec::new();
    let mut digests = Vec::new();
    for (number, files) in layers.iter().enumerate() {
        let tree = work.join(format!("tree{number}"));
        for (name, text) in *files {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let name = format!("layer{number}.tar");
        let (tar, tree) = (work.join(&name), tree.to_str().unwrap().to_owned());
        run("tar", ["-C", &tree, "-cf", tar.to_str().unwrap(), "."]).unwrap();
        let sum = run("sha256sum", [&tar]).unwrap();
        digests.push(format!("\"sha256:{}\"", &sum[..64]));
        names.push(format!("\"{name}\""));
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        digests.join(",")
    );
    let manifest = format!(
        r#"[{{"Config":"config.json","RepoTags":["{IMAGE}"],"Layers":[{}]}}]"#,
        names.join(",")
    );
    fs::write(work.join("config.json"), config).unwrap();
    fs::write(work.join("manifest.json"), manifest).unwrap();
    let image = dir.join("image.tar");
    let (work, to) = (work.to_str().unwrap(), image.to_str().unwrap());
    let parts = [
        "manifest.json",
        "config.json",
        "layer0.tar",
        "layer1.tar",
        "layer2.tar",
    ];
    run("tar", ["-C", work, "-cf", to].iter().chain(&parts)).unwrap();
    image
}

fn able() -> Option<World> {
    if !host::has("containerd") || !host::has("ctr") {
        eprintln!("skipped: this test needs containerd and ctr");
        return None;
    }
    World::new()
}

/// Mounts what `ctr snapshots mounts` would, as containerd gave it.
fn mounted(containerd: &Containerd, key: &str, on: &Path) -> Mounted {
    let line = containerd
        .snapshots(&["mounts", on.to_str().unwrap(), key])
        .unwrap();
    // mount -t ext4 SOURCE TARGET -o rw,loop
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..3], ["mount", "-t", "ext4"], "{line}");
    let options = words.last().unwrap();
    Mounted::new("ext4", words[3], &[(*options).to_owned()], on).unwrap()
}

/// The name of the top layer's snapshot.
fn top_layer(containerd: &Containerd) -> String {
    let tree = containerd.snapshots(&["tree"]).unwrap();
    let mut names = tree
        .lines()
        .map(|line| line.trim_start_matches([' ', '\\', '_']));
    let top = names.rfind(|name| name.starts_with("sha256:"));
    top.unwrap().to_owned()
}

/// Has garbage collected until so many images are left. Deleting a lease with `--sync` runs the
/// collector: left to itself, 1.7 now and then overlooks a removal made while it collects.
fn wait_for_images(world: &World, containerd: &Containerd, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    for number in 0.. {
        let lease = format!("collect-{number}");
        containerd
            .ctr(&["leases", "create", "--id", &lease])
            .unwrap();
        containerd.ctr(&["leases", "rm", "--sync", &lease]).unwrap();
        if world.images() == count {
            return;
        }
        let listed = containerd.snapshots(&["ls"]).unwrap();
        let left = world.images();
        assert!(Instant::now() < deadline, "{left} images left: {listed}");
    }
}

#[test]
fn images_are_unpacked_used_and_collected() {
    let Some(world) = able() else { return };
    let snapshotter = world.start();
    let containerd = Containerd::start(&world);
    containerd.import(&archive(world.path())).unwrap();
    let listed = containerd.snapshots(&["ls"]).unwrap();
    assert_eq!(listed.matches("Committed").count(), 3, "{listed}");
    assert_eq!(world.images(), 3);

    let top = top_layer(&containerd);
    containerd.snapshots(&["prepare", "work", &top]).unwrap();
    let work = mounted(&containerd, "work", &world.path().join("work"));
    let read = |name: &str| fs::read_to_string(work.path().join(name)).ok();
    assert_eq!(read("etc/name").as_deref(), Some("two"));
    assert_eq!(read("kept/file").as_deref(), Some("y"));
    assert_eq!(read("top").as_deref(), Some("layer"));
    assert!(!work.path().join("gone").exists());
    assert!(!work.path().join("lost+found").exists());
    fs::write(work.path().join("mine"), "new").unwrap();
    drop(work);
    containerd.snapshots(&["commit", "mine", "work"]).unwrap();
    containerd.snapshots(&["view", "look", "mine"]).unwrap();
    // ctr marks what it prepares and commits, but not views: a collection would take it.
    let mark = "containerd.io/gc.root=now";
    containerd.snapshots(&["label", "look", mark]).unwrap();
    let look = mounted(&containerd, "look", &world.path().join("look"));
    assert_eq!(fs::read_to_string(look.path().join("mine")).unwrap(), "new");
    assert!(fs::write(look.path().join("x"), "").is_err());
    drop(look);
    let info = containerd.snapshots(&["info", "mine"]).unwrap();
    assert!(
        info.contains("\"Kind\": \"Committed\"") && info.contains(&top),
        "{info}"
    );
    containerd
        .snapshots(&["label", "mine", "containerd.io/snapshot/x=y"])
        .unwrap();
    containerd.snapshots(&["usage", "mine"]).unwrap();
    assert!(
        containerd.snapshots(&["rm", "mine"]).is_err(),
        "it has a child"
    );

    // Both may die without the other.
    snapshotter.kill();
    assert!(containerd.snapshots(&["info", "mine"]).is_err() || world.images() == 5);
    let snapshotter = world.start();
    drop(containerd);
    let containerd = Containerd::start(&world);
    assert_eq!(top_layer(&containerd), top);
    containerd.snapshots(&["rm", "look"]).unwrap();
    containerd.snapshots(&["rm", "mine"]).unwrap();
    wait_for_images(&world, &containerd, 3);
    containerd.ctr(&["images", "rm", "--sync", IMAGE]).unwrap();
    wait_for_images(&world, &containerd, 0);
    drop(containerd);
    // The pool's own is left when no image is in use: then a stop unmounts it.
    assert!(host::settles_to_loops(world.path(), 1));
    assert!(snapshotter.stop().success());
    assert!(
        host::mounts_below(world.path()).is_empty(),
        "{:?}",
        host::mounts_below(world.path())
    );
    assert!(host::settles_to_loops(world.path(), 0));
}

#[test]
fn full_store_fails_an_import_with_the_reason_and_leaves_nothing() {
    let Some(world) = able() else { return };
    let _snapshotter = world.start();
    let containerd = Containerd::start(&world);
    let archive = archive(world.path());
    full::fill(&world, 32 << 20);
    let error = containerd.import(&archive).unwrap_err();
    assert!(error.contains("MiB are free"), "{error}");
    assert_eq!(world.images(), 0);
    fs::remove_file(world.store().join("filler")).unwrap();
    containerd.import(&archive).unwrap();
    assert_eq!(world.images(), 3);
}

#[test]
fn a_container_runs_on_a_snapshot() {
    let Some(world) = able() else { return };
    let snapshotter = world.start();
    let containerd = Containerd::start(&world);
    containerd.import(&archive(world.path())).unwrap();
    let script = "cat /etc/name /top; echo x > /etc/name && echo written";
    let run = |snapshotter: &str, number: u32| {
        // runc keeps the containers of all containerds in one place.
        let id = format!("cube-test-{}-{number}", std::process::id());
        let words = [
            "run",
            "--rm",
            "--net-host",
            "--snapshotter",
            snapshotter,
            IMAGE,
            &id,
        ];
        let command = ["/bin/busybox", "sh", "-c", script];
        containerd.ctr(&[&words[..], &command[..]].concat())
    };
    if let Err(error) = run("native", 0) {
        eprintln!("skipped: containers do not run here at all: {error}");
        return;
    }
    // Twice: the second one must not see what the first one wrote.
    assert_eq!(run("cube", 1).unwrap(), "twolayerwritten\n");
    assert_eq!(run("cube", 2).unwrap(), "twolayerwritten\n");
    wait_for_images(&world, &containerd, 3);
    drop(containerd);
    // The pool's own is left when no image is in use: then a stop unmounts it.
    assert!(host::settles_to_loops(world.path(), 1));
    assert!(snapshotter.stop().success());
    assert!(host::settles_to_loops(world.path(), 0));
}
