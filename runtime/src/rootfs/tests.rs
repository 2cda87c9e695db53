// SPDX-License-Identifier: Apache-2.0
//! Which mounts become a disk, and which are refused by name.
use super::*;
use std::path::Path;

fn mount(kind: &str, source: &str, options: &[&str]) -> RootfsMount {
    RootfsMount {
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(ToString::to_string).collect(),
    }
}

fn image(dir: &Path) -> PathBuf {
    let path = dir.join("image");
    std::fs::write(&path, [0; 512]).unwrap();
    path
}

fn spec(path: &Path, options: &[&str]) -> DiskSpec {
    DiskSpec::from_mounts(&[mount("ext4", path.to_str().unwrap(), options)]).unwrap()
}

#[test]
fn the_mounts_of_block_snapshotters_are_disks() {
    let check = |kind, options: &[&str], fs_type, read_only, is_loop| {
        let disk = DiskSpec::from_mounts(&[mount(kind, "/i", options)]).unwrap();
        assert_eq!(disk.fs_type, fs_type);
        assert_eq!(
            (disk.read_only, disk.is_loop),
            (read_only, is_loop),
            "{options:?}"
        );
    };
    check("ext4", &["rw", "loop"], FsType::Ext4, false, true);
    check("ext4", &["ro", "loop"], FsType::Ext4, true, true);
    check("ext4", &["ro", "noload"], FsType::Ext4, true, false);
    check("xfs", &["nouuid"], FsType::Xfs, false, false);
    check("ext4", &[], FsType::Ext4, false, false);
}

#[test]
fn everything_else_is_refused_with_what_to_do() {
    let check = |mounts: &[RootfsMount], expect: &[&str]| {
        let error = DiskSpec::from_mounts(mounts).unwrap_err();
        for words in expect {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(error.kind(), Kind::Unimplemented);
    };
    let overlay = mount("overlay", "overlay", &["lowerdir=/a", "upperdir=/b"]);
    check(
        &[overlay],
        &["rootfs of kind overlay", "--snapshotter cube"],
    );
    check(
        &[mount("bind", "/dev/sda", &["rbind", "rw"])],
        &["kind bind", "/dev/sda"],
    );
    check(&[], &["--snapshotter cube", "docker"]);
    let disk = mount("ext4", "/i", &["loop"]);
    check(&[disk.clone(), disk], &["2 mounts"]);
}

#[test]
fn an_unknown_option_is_not_dropped() {
    let mounts = [mount("ext4", "/i", &["loop", "data=journal"])];
    let error = DiskSpec::from_mounts(&mounts).unwrap_err();
    assert!(error.to_string().contains("data=journal"), "{error}");
}

#[test]
fn an_image_needs_the_option_loop() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path());
    spec(&path, &["loop"]).open().unwrap();
    let error = spec(&path, &[]).open().unwrap_err();
    assert!(matches!(error, RootfsError::FileType { .. }), "{error}");
}

#[test]
fn directories_fifos_and_character_devices_are_no_disks() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&fifo, mode).unwrap();
    for path in [dir.path(), &fifo, Path::new("/dev/null")] {
        for options in [&["ro", "loop"][..], &["ro"]] {
            let error = spec(path, options).open().unwrap_err();
            assert!(matches!(error, RootfsError::FileType { .. }), "{error}");
        }
    }
}

#[test]
fn a_missing_image_names_itself() {
    let error = spec(Path::new("/nonexistent/i"), &["loop"])
        .open()
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/i"), "{error}");
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn one_image_has_one_writer_or_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(dir.path());
    let writer = spec(&path, &["loop"]).open().unwrap();
    for options in [&["loop"][..], &["loop", "ro"]] {
        let error = spec(&path, options).open().unwrap_err();
        assert!(matches!(error, RootfsError::Busy { .. }), "{error}");
    }
    // A VMM holds a copy of the descriptor; the lock goes with the last one.
    let vmm = writer.file.try_clone().unwrap();
    drop(writer);
    spec(&path, &["loop"]).open().unwrap_err();
    drop(vmm);
    let _reader = spec(&path, &["loop", "ro"]).open().unwrap();
    spec(&path, &["loop", "ro"]).open().unwrap();
    spec(&path, &["loop"]).open().unwrap_err();
}
