// SPDX-License-Identifier: Apache-2.0
//! What cannot work gives one clear error, leaves nothing behind and does no harm to others.
//!
//! Every case runs beside the bed's resident and afterwards asks it whether it is well.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use cube_tests::bed::{Bed, SMALL, Settings};
use cube_tests::bounded::Program;
use cube_tests::ctr::BUSYBOX;
use cube_tests::series::image_archive;
use cube_tests::suite::{Case, case};

use crate::MAIN;

const FOREIGN: &str = "docker.io/library/foreign:latest";

pub const CASES: &[Case] = &[
    bad(
        "command_that_is_not_in_the_image_is_refused",
        command_not_found,
    ),
    bad(
        "command_that_may_not_be_executed_is_refused",
        command_not_executable,
    ),
    bad(
        "working_directory_that_does_not_exist_is_refused",
        no_directory,
    )
    .ours(),
    bad("user_that_the_image_does_not_know_is_refused", unknown_user),
    bad("image_for_another_architecture_is_refused", foreign_image),
    bad("root_file_system_of_directories_is_refused", overlay_root).ours(),
    bad("host_network_is_refused", host_network).ours(),
    bad("bind_mount_from_the_host_is_refused", bind_mount).ours(),
    bad(
        "memory_limit_below_what_a_guest_needs_is_refused",
        tiny_memory,
    )
    .ours(),
    bad("host_without_kvm_is_refused", no_kvm).ours(),
    bad("missing_guest_kernel_is_refused", kernel_missing).ours(),
    bad("truncated_guest_kernel_is_refused", kernel_truncated).ours(),
    bad("second_container_of_the_same_name_is_refused", same_name),
    bad("full_disk_is_refused_and_works_again_with_space", full_disk),
];

const fn bad(name: &'static str, run: fn(&mut Bed)) -> Case {
    case(name, run).on(MAIN).resident()
}

/// Runs a container with such flags and such a command; it must not run and must say these words.
fn refuse(bed: &mut Bed, flags: &[&str], command: &[&str], words: &[&str]) {
    let id = bed.id("bad");
    bed.run(&[&["--rm"], flags].concat(), BUSYBOX, &id, command)
        .run()
        .refused(words);
    gone(bed, &id);
}

/// Nothing of the refused container is there, and the resident is well.
fn gone(bed: &mut Bed, id: &str) {
    assert_eq!(
        bed.task_state(id),
        "",
        "the task of a container that did not start"
    );
    // A client that fails may leave the container's record; that is its business.
    bed.ctr(&["container", "delete", id]).run();
    let resident = bed.resident();
    bed.exec(&resident, "true").run().succeeded();
}

fn command_not_found(bed: &mut Bed) {
    refuse(
        bed,
        &[],
        &["/no/such/command"],
        &["/no/such/command", "no such file"],
    );
}

fn command_not_executable(bed: &mut Bed) {
    refuse(
        bed,
        &[],
        &["/etc/passwd"],
        &["/etc/passwd", "permission denied"],
    );
}

fn no_directory(bed: &mut Bed) {
    refuse(
        bed,
        &["--cwd", "/no/such/directory"],
        &["true"],
        &["/no/such/directory", "no such file"],
    );
}

fn unknown_user(bed: &mut Bed) {
    refuse(
        bed,
        &["--user", "nosuchuser"],
        &["true"],
        &["no users found"],
    );
}

fn foreign_image(bed: &mut Bed) {
    let archive = image_archive("foreign");
    let import = [
        "image",
        "import",
        "--local",
        "--all-platforms",
        "--no-unpack",
    ];
    bed.ctr(&import).args([archive]).run().succeeded();
    let id = bed.id("bad");
    // The client does not mind that the image says arm64; its program does not run here.
    let run = bed.run(
        &["--rm", "--platform", "linux/arm64"],
        FOREIGN,
        &id,
        &["/bin/sh"],
    );
    run.run().refused(&["/bin/sh", "exec format error"]);
    gone(bed, &id);
    bed.ctr(&["image", "rm", FOREIGN]).run().succeeded();
}

fn overlay_root(bed: &mut Bed) {
    bed.import("busybox", "overlayfs");
    let id = bed.id("bad");
    let run = bed
        .run_from("overlayfs", &["--rm"], BUSYBOX, &id, &["true"])
        .run();
    run.refused(&["overlay", "--snapshotter cube"]);
    gone(bed, &id);
}

fn host_network(bed: &mut Bed) {
    refuse(bed, &["--net-host"], &["true"], &["host network"]);
}

fn bind_mount(bed: &mut Bed) {
    let mount = "type=bind,src=/etc,dst=/mnt,options=rbind:ro";
    refuse(bed, &["--mount", mount], &["true"], &["bind", "/mnt"]);
}

fn tiny_memory(bed: &mut Bed) {
    refuse(bed, &["--memory-limit", "1048576"], &["true"], &["memory"]);
}

fn no_kvm(bed: &mut Bed) {
    let id = bed.id("bad");
    let covered = Covered::with("/dev/null", "/dev/kvm");
    let ended = bed.run(&["--rm"], BUSYBOX, &id, &["true"]).run();
    drop(covered);
    ended.refused(&["/dev/kvm"]);
    gone(bed, &id);
}

/// A file that shows another one's content, in the mount namespace of the tests and their daemons.
struct Covered(&'static str);

impl Covered {
    fn with(cover: &str, file: &'static str) -> Self {
        let none: Option<&str> = None;
        mount(Some(cover), file, none, MsFlags::MS_BIND, none).expect("it can be covered");
        Self(file)
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).expect("it was covered");
    }
}

fn kernel_missing(bed: &mut Bed) {
    let image = broken_image(bed);
    fs::remove_file(image.join("vmlinuz")).expect("the copy has one");
    refuse_image(bed, image, &["vmlinuz", "no such file"]);
}

fn kernel_truncated(bed: &mut Bed) {
    let image = broken_image(bed);
    let kernel = image.join("vmlinuz");
    let whole = fs::read(&kernel).expect("the image has one");
    fs::remove_file(&kernel).expect("the copy has one");
    fs::write(&kernel, &whole[..whole.len() / 2]).expect("there is space");
    refuse_image(bed, image, &["vmlinuz", "damaged"]);
}

/// A guest image of links to the real one, to be broken.
fn broken_image(bed: &Bed) -> PathBuf {
    let image = bed.scratch("broken-image");
    fs::remove_dir_all(&image).ok(); // of the case before
    fs::create_dir(&image).expect("the bed has a directory");
    for entry in fs::read_dir(bed.image())
        .expect("there is an image")
        .flatten()
    {
        symlink(entry.path(), image.join(entry.file_name())).expect("links can be made");
    }
    image
}

fn refuse_image(bed: &mut Bed, image: PathBuf, words: &[&str]) {
    // A start from a template does not read the image.
    let settings = Settings {
        image: Some(image),
        more: "cold = true",
        ..Settings::default()
    };
    bed.with_settings(&settings, |bed| refuse(bed, &[], &["true"], words));
}

fn same_name(bed: &mut Bed) {
    let id = bed.resident();
    bed.run(&["--rm"], BUSYBOX, &id, &["true"])
        .run()
        .refused(&["already exists"]);
    assert_eq!(bed.task_state(&id), "RUNNING");
}

fn full_disk(bed: &mut Bed) {
    let (file, root) = (bed.scratch("small.xfs"), bed.scratch("small"));
    let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
    fs::create_dir_all(&root).expect("the bed has a directory");
    Program::new("truncate")
        .args(["-s", "400M", &shown(&file)])
        .run()
        .succeeded();
    Program::new("mkfs.xfs")
        .args(["-q", "-m", "reflink=1", &shown(&file)])
        .run()
        .succeeded();
    let disk = Disk::mount(&file, &root);
    let snapshotter = bed.small_snapshotter(&root);

    bed.import("busybox", SMALL);
    fill(&root.join("filling"));
    let id = bed.id("bad");
    bed.run_from(SMALL, &["--rm"], BUSYBOX, &id, &["true"])
        .run()
        .refused(&["are free"]);
    gone(bed, &id);

    fs::remove_file(root.join("filling")).expect("it was made");
    let id = bed.id("good");
    let said = bed
        .run_from(SMALL, &["--rm"], BUSYBOX, &id, &["echo", "space"])
        .run()
        .succeeded()
        .out();
    assert_eq!(said, "space");

    bed.remove_snapshots(SMALL);
    snapshotter.stop();
    disk.unmount();
    fs::remove_file(&file).expect("it was made");
}

/// A mounted file system image. Dropping it takes it off, whoever still uses it.
struct Disk(PathBuf);

impl Disk {
    fn mount(file: &Path, root: &Path) -> Self {
        let mount = Program::new("mount").args(["-o", "loop"]);
        mount.args([file, root]).run().succeeded();
        Self(root.into())
    }

    /// Nobody may use it any more.
    fn unmount(self) {
        Program::new("umount").args([&self.0]).run().succeeded();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok(); // it fails where `unmount` has done it
    }
}

/// Takes every free block, in pieces that get smaller, so that not one is left.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).expect("there is space for a name");
    let mut piece = vec![0_u8; 1 << 20];
    while !piece.is_empty() {
        while file
            .write_all(&piece)
            .and_then(|()| file.sync_data())
            .is_ok()
        {}
        piece.truncate(piece.len() / 16);
    }
}
