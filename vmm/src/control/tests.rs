// SPDX-License-Identifier: Apache-2.0
//! Both ends of the control socket against each other, and the frozen shape of its messages.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread;

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Serialize;

use super::*;
use crate::config::{BootConfig, ConfigError, DiskConfig, RestoreConfig};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

fn ends() -> (Client, Server) {
    let (ours, theirs) = pair();
    (Client::new(ours), Server::new(theirs))
}

fn config() -> BootConfig {
    BootConfig {
        vcpus: 2,
        memory_mib: 512,
        cmdline: "quiet".into(),
        uid: 1000,
        gid: 1000,
    }
}

/// A file whose content tells which one it is.
fn labelled(label: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, label.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file.into()
}

fn label(file: OwnedFd) -> String {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

fn boot_files(netns: bool) -> BootFiles {
    BootFiles {
        kvm: labelled("kvm"),
        kernel: labelled("kernel"),
        initramfs: labelled("initramfs"),
        vsock: labelled("vsock"),
        serial: labelled("serial"),
        netns: netns.then(|| labelled("netns")),
    }
}

#[test]
fn boot_carries_its_files_in_order() {
    for netns in [false, true] {
        let (mut client, mut server) = ends();
        let asker = thread::spawn(move || client.boot(&config(), boot_files(netns)));
        let Call::Boot {
            config: got,
            shape,
            files,
        } = server.receive().unwrap().unwrap().unwrap()
        else {
            panic!("not a boot");
        };
        assert_eq!(got, config());
        assert_eq!(shape.vcpus(), 2);
        assert_eq!(label(files.kvm), "kvm");
        assert_eq!(label(files.kernel), "kernel");
        assert_eq!(label(files.initramfs), "initramfs");
        assert_eq!(label(files.vsock), "vsock");
        assert_eq!(label(files.serial), "serial");
        assert_eq!(files.netns.map(label), netns.then(|| "netns".to_owned()));
        server.reply(&Reply::Done).unwrap();
        asker.join().unwrap().unwrap();
    }
}

fn disks(slots: &[u8]) -> Vec<DiskConfig> {
    let disk = |&slot| DiskConfig {
        slot,
        read_only: false,
    };
    slots.iter().map(disk).collect()
}

#[test]
fn disks_are_named_once_in_order() {
    let checked = |slots: &[u8]| {
        let config = RestoreConfig {
            uid: 1,
            gid: 1,
            record: false,
            disks: disks(slots),
        };
        config.check()
    };
    assert_eq!(checked(&[]), Ok(()));
    assert_eq!(checked(&[0, 7]), Ok(()));
    assert_eq!(checked(&[1, 1]), Err(ConfigError::Disks));
    assert_eq!(checked(&[2, 1]), Err(ConfigError::Disks));
    assert_eq!(checked(&[8]), Err(ConfigError::Slot { asked: 8 }));
}

#[test]
fn restore_carries_its_files_in_order() {
    for (working_set, netns) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut client, mut server) = ends();
        let config = RestoreConfig {
            uid: 5,
            gid: 6,
            record: true,
            disks: disks(&[0, 3]),
        };
        let files = RestoreFiles {
            kvm: labelled("kvm"),
            state: labelled("state"),
            memory: labelled("memory"),
            vsock: labelled("vsock"),
            serial: labelled("serial"),
            working_set: working_set.then(|| labelled("working set")),
            netns: netns.then(|| labelled("netns")),
            disks: vec![labelled("disk 0"), labelled("disk 3")],
        };
        let asker = thread::spawn(move || client.restore(&config, files));
        let Call::Restore { config, files } = server.receive().unwrap().unwrap().unwrap() else {
            panic!("not a restore");
        };
        assert_eq!((config.uid, config.gid, config.record), (5, 6, true));
        let given: Vec<_> = files.disks.into_iter().map(label).collect();
        assert_eq!(given, ["disk 0", "disk 3"]);
        assert_eq!(label(files.kvm), "kvm");
        assert_eq!(label(files.state), "state");
        assert_eq!(label(files.memory), "memory");
        assert_eq!(label(files.vsock), "vsock");
        assert_eq!(label(files.serial), "serial");
        let optional = files.working_set.map(label);
        assert_eq!(optional, working_set.then(|| "working set".to_owned()));
        assert_eq!(files.netns.map(label), netns.then(|| "netns".to_owned()));
        server.reply(&Reply::Done).unwrap();
        asker.join().unwrap().unwrap();
    }
}

#[test]
fn a_failed_reply_is_an_error_with_its_chain_and_the_next_request_works() {
    let (mut client, mut server) = ends();
    let asker = thread::spawn(move || {
        let first = client.attach(3, labelled("disk"), true);
        (first, client.pause())
    });
    let Call::Attach {
        slot,
        disk,
        read_only,
    } = server.receive().unwrap().unwrap().unwrap()
    else {
        panic!("not an attach");
    };
    assert_eq!(
        (slot.index(), read_only, label(disk).as_str()),
        (3, true, "disk")
    );
    let chain = vec!["slot 3 is taken".to_owned(), "by a disk".to_owned()];
    server.reply(&Reply::Failed { chain }).unwrap();
    assert!(matches!(server.receive(), Ok(Some(Ok(Call::Pause)))));
    server.reply(&Reply::Done).unwrap();
    let (first, second) = asker.join().unwrap();
    assert_eq!(
        first.unwrap_err().to_string(),
        "the VMM could not attach: slot 3 is taken: by a disk"
    );
    second.unwrap();
}

#[test]
fn a_dead_vmm_is_gone_for_this_and_every_later_request() {
    let (mut client, server) = ends();
    drop(server);
    for _ in 0..2 {
        assert!(matches!(
            client.resume(),
            Err(ControlError::Gone { request: "resume" })
        ));
    }
}

#[test]
fn a_vmm_that_dies_while_asked_is_gone() {
    let (mut client, mut server) = ends();
    let asker = thread::spawn(move || client.stats());
    assert!(server.receive().unwrap().is_some());
    drop(server);
    assert!(matches!(
        asker.join().unwrap(),
        Err(ControlError::Gone { .. })
    ));
}

#[test]
fn a_dead_runtime_is_the_end() {
    let (client, mut server) = ends();
    drop(client);
    assert!(server.receive().unwrap().is_none());
}

#[test]
fn missing_and_superfluous_descriptors_are_refused() {
    let (ours, theirs) = pair();
    let mut server = Server::new(theirs);
    let disk = labelled("x");
    let borrowed = std::os::fd::AsFd::as_fd(&disk);
    packet::send(&ours, &Request::Pause, &[borrowed]).unwrap();
    packet::send(
        &ours,
        &Request::Attach {
            slot: 0,
            read_only: false,
        },
        &[],
    )
    .unwrap();
    let found = |server: &mut Server| match server.receive().unwrap().unwrap() {
        Err(CallError::Descriptors {
            found, expected, ..
        }) => (found, expected),
        other => panic!("{other:?}"),
    };
    let restore = Request::Restore {
        config: RestoreConfig {
            uid: 1,
            gid: 1,
            record: false,
            disks: Vec::new(),
        },
        working_set: true,
        netns: false,
    };
    packet::send(&ours, &restore, &[borrowed; 5]).unwrap();
    packet::send(&ours, &restore, &[borrowed; 7]).unwrap();
    packet::send(&ours, &restore, &[]).unwrap();
    assert_eq!(found(&mut server), (1, 0));
    assert_eq!(found(&mut server), (0, 1));
    assert_eq!(found(&mut server), (5, 6));
    assert_eq!(found(&mut server), (7, 6));
    assert_eq!(found(&mut server), (0, 6));
}

#[test]
fn a_slot_beyond_the_last_is_refused() {
    let (ours, theirs) = pair();
    packet::send(&ours, &Request::Detach { slot: 8 }, &[]).unwrap();
    assert!(matches!(
        Server::new(theirs).receive(),
        Ok(Some(Err(CallError::Config {
            source: ConfigError::Slot { asked: 8 },
            ..
        })))
    ));
}

#[test]
fn a_message_too_long_is_not_sent() {
    let (mut client, _server) = ends();
    let mut long = config();
    long.cmdline = "x".repeat(MAX_PACKET);
    assert!(matches!(
        client.boot(&long, boot_files(false)),
        Err(ControlError::Packet {
            source: PacketError::TooLong { .. },
            ..
        })
    ));
}

#[test]
fn the_messages_are_frozen() {
    #[derive(Serialize)]
    struct Golden {
        requests: Vec<Request>,
        replies: Vec<Reply>,
    }
    let stats = Stats {
        state: RunState::Running,
        vcpu_exits: vec![1, 2],
        serial_bytes: 3,
        serial_dropped: 0,
        attached_slots: vec![0, 7],
    };
    let golden = Golden {
        requests: vec![
            Request::Boot {
                config: config(),
                netns: true,
            },
            Request::Restore {
                config: RestoreConfig {
                    uid: 1,
                    gid: 2,
                    record: false,
                    disks: disks(&[4]),
                },
                working_set: true,
                netns: false,
            },
            Request::Save,
            Request::WorkingSet,
            Request::Attach {
                slot: 1,
                read_only: true,
            },
            Request::Detach { slot: 1 },
            Request::AttachNet { slot: 0 },
            Request::DetachNet { slot: 3 },
            Request::Pause,
            Request::Resume,
            Request::Stats,
            Request::Quit,
        ],
        replies: vec![
            Reply::Done,
            Reply::Stats(stats),
            Reply::Failed {
                chain: vec!["outer".into(), "cause".into()],
            },
        ],
    };
    let text = serde_json::to_string_pretty(&golden).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control_golden.json");
    if std::env::var_os("CUBE_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).unwrap(),
        "the control messages changed; if meant, run again with CUBE_UPDATE_GOLDEN=1"
    );
}

proptest! {
    #[test]
    fn any_boot_config_survives_the_socket(
        vcpus in any::<u8>(), memory_mib in any::<u32>(), cmdline in ".{0,200}",
        uid in any::<u32>(), gid in any::<u32>(), netns in any::<bool>(),
    ) {
        let (ours, theirs) = pair();
        let sent = Request::Boot {
            config: BootConfig { vcpus, memory_mib, cmdline, uid, gid },
            netns,
        };
        packet::send(&ours, &sent, &[]).unwrap();
        let (got, files) = packet::receive::<Request>(&theirs).unwrap().unwrap();
        prop_assert_eq!(sent, got);
        prop_assert!(files.is_empty());
    }

    #[test]
    fn no_bytes_make_the_server_panic(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
        let (ours, theirs) = pair();
        rustix::net::send(&ours, &bytes, rustix::net::SendFlags::empty()).unwrap();
        let result = Server::new(theirs).receive();
        prop_assert!(matches!(result, Err(PacketError::Decode(_)) | Ok(Some(_))));
    }
}
