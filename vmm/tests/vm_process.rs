// SPDX-License-Identifier: Apache-2.0
//! The process around a machine: what it gives up, what it refuses, and when it ends.

mod machine;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cube_vmm::control::ControlError;
use cube_vmm::exit::ExitReason;
use machine::{Guest, Machine, UID, file_of, host_runs_guests};
use rustix::fs::OFlags;

/// `jmp $`
const IDLE: [u8; 2] = [0xeb, 0xfe];

fn refusal(result: Result<(), ControlError>) -> String {
    match result {
        Err(error @ ControlError::Refused { .. }) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_running_process_has_given_up_everything() {
    if !host_runs_guests() {
        return;
    }
    let machine = Machine::run(Guest::code(&IDLE));
    let of = |what: &str| format!("/proc/{}/{what}", machine.pid());

    let status = fs::read_to_string(of("status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().collect::<Vec<_>>()
    };
    let uid = UID.to_string();
    assert_eq!(field("Uid:"), [&*uid; 4]);
    assert_eq!(field("Gid:"), [&*uid; 4]);
    assert!(field("Groups:").is_empty());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);

    for namespace in ["mnt", "net", "ipc", "uts"] {
        let link = |of: String| fs::read_link(of).unwrap();
        let own = link(of(&format!("ns/{namespace}")));
        assert_ne!(own, link(format!("/proc/self/ns/{namespace}")));
    }
    assert_eq!(fs::read_dir(of("root/")).unwrap().count(), 0);
    assert_eq!(fs::read_link(of("cwd")).unwrap(), Path::new("/"));
    // proc(5): these belong to root only while the process is not dumpable.
    assert_eq!(fs::metadata(of("environ")).unwrap().uid(), 0);
    let limits = fs::read_to_string(of("limits")).unwrap();
    let core = limits.lines().find(|line| line.contains("core")).unwrap();
    assert!(
        core.split_whitespace().filter(|word| *word == "0").count() == 2,
        "{core}"
    );
}

#[test]
fn a_given_network_namespace_is_entered() {
    if !host_runs_guests() {
        return;
    }
    let (namespace, inode) = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let path = "/proc/thread-self/ns/net";
        let namespace: OwnedFd = File::open(path).unwrap().into();
        (namespace, fs::read_link(path).unwrap())
    })
    .join()
    .unwrap();
    let mut machine = Machine::spawn();
    machine.netns = Some(namespace);
    machine.boot(Guest::code(&IDLE)).unwrap();
    let own = fs::read_link(format!("/proc/{}/ns/net", machine.pid())).unwrap();
    assert_eq!(own, inode);
}

#[test]
fn what_cannot_boot_is_named_and_ends_the_process() {
    if !host_runs_guests() {
        return;
    }
    let whole = machine::bzimage::around(&IDLE);
    let check = |guest: Guest, expect: &str| {
        let mut machine = Machine::spawn();
        let said = refusal(machine.boot(guest));
        assert_eq!(said, format!("the VMM could not boot: {expect}"));
        assert_eq!(machine.wait(), ExitReason::BootFailed);
        assert_eq!(machine.log(), format!("cube-vmm: {expect}\n"));
    };
    let with_kernel = |kernel| Guest {
        kernel,
        ..Guest::code(&IDLE)
    };
    check(
        with_kernel(file_of(&whole[..3000])),
        "the guest kernel is unfit: the kernel is cut off: it has 3000 bytes of 5120",
    );
    check(
        with_kernel(file_of(&[&b"070701"[..], &whole].concat())),
        "the guest kernel is unfit: the kernel is not an x86 bzImage or vmlinux but a cpio archive \
         (an initramfs?)",
    );
    check(
        with_kernel(File::open("/dev/zero").unwrap().into()),
        "the guest kernel is unfit: the kernel cannot be read: it is not a regular file",
    );
    let large = tempfile::tempfile().unwrap();
    large.set_len(200 << 20).unwrap();
    let guest = Guest {
        initramfs: large.into(),
        ..Guest::code(&IDLE)
    };
    check(
        guest,
        "the kernel could not be told what it runs on: the initramfs of 209715200 bytes does not \
         fit into the machine's memory beside the kernel, which leaves 116391936",
    );
}

#[test]
fn a_machine_outside_the_limits_is_refused_and_can_be_asked_for_again() {
    if !host_runs_guests() {
        return;
    }
    let mut machine = Machine::spawn();
    let guest = Guest {
        memory_mib: 16,
        ..Guest::code(&IDLE)
    };
    assert_eq!(
        refusal(machine.boot(guest)),
        "the VMM could not boot: the request boot asks for something impossible: a machine with \
         16 MiB of memory was asked for, 128 to 524288 MiB are possible"
    );
    assert_eq!(
        refusal(machine.client.pause()),
        "the VMM could not pause: there is no machine yet; it has to be booted or restored first"
    );
    machine.boot(Guest::code(&IDLE)).unwrap();
    assert_eq!(
        refusal(machine.boot(Guest::code(&IDLE))),
        "the VMM could not boot: there is a machine already; a process runs one"
    );
    machine.client.stats().unwrap();
}

#[test]
fn slots_take_one_disk_and_give_it_back() {
    if !host_runs_guests() {
        return;
    }
    let mut machine = Machine::run(Guest::code(&IDLE));
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk = |flags| -> OwnedFd {
        rustix::fs::open(image.path(), flags, rustix::fs::Mode::empty()).unwrap()
    };
    let client = &mut machine.client;
    for _ in 0..3 {
        client.attach(7, disk(OFlags::RDWR), false).unwrap();
        client.attach(0, disk(OFlags::RDONLY), true).unwrap();
        assert_eq!(client.stats().unwrap().attached_slots, [0, 7]);
        let taken = refusal(client.attach(7, disk(OFlags::RDWR), false));
        assert!(
            taken.contains("block slot 7 did not take the disk"),
            "{taken}"
        );
        client.detach(7).unwrap();
        client.detach(0).unwrap();
        let empty = refusal(client.detach(7));
        assert_eq!(
            empty,
            "the VMM could not detach: block slot 7 holds no disk"
        );
    }
    let wrong = refusal(client.attach(1, disk(OFlags::RDWR), true));
    assert!(wrong.contains("read-only disk needs"), "{wrong}");
    assert!(client.stats().unwrap().attached_slots.is_empty());
}

#[test]
fn the_end_of_the_runtime_is_the_end_of_the_machine() {
    if !host_runs_guests() {
        return;
    }
    let mut machine = Machine::run(Guest::code(&IDLE));
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    machine.client = cube_vmm::control::Client::new(ours.into());
    assert_eq!(machine.wait(), ExitReason::Stopped);
    assert_eq!(machine.log(), "cube-vmm: told to quit\n");
}

#[test]
fn started_by_hand_it_says_what_it_is_for() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cube-vmm"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let end = ExitReason::from_status(output.status);
    assert_eq!(end, Some(ExitReason::Usage));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "cube-vmm: descriptor 0 is not a control socket; this program is for the cube runtime\n"
    );
}
