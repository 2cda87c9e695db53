// SPDX-License-Identifier: Apache-2.0
//! The guest half: what runs in the guest in place of an agent. It listens on one vsock port and
//! obeys one command per connection.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket,
};

use crate::pattern::{digest, read_pattern, write_pattern};

/// Set in the guest.
pub const GUEST: &str = "CUBE_TEST_GUEST";

/// Where the guest half listens.
pub const PORT: u32 = 1024;

/// Addresses of vsock (linux/vm_sockets.h).
const CID_ANY: u32 = u32::MAX;
const CID_HOST: u32 = 2;

/// Nothing on the host.
#[test]
fn guest_half() {
    if std::env::var_os(GUEST).is_none() {
        return;
    }
    let listener = vsock();
    bind(listener.as_raw_fd(), &VsockAddr::new(CID_ANY, PORT)).unwrap();
    listen(&listener, Backlog::new(128).unwrap()).unwrap();
    println!("guest half listens");
    loop {
        // The calls on a stream are the same, whatever the family of its socket.
        let mut stream = UnixStream::from(rustix::net::accept(&listener).unwrap());
        let mut command = String::new();
        BufReader::with_capacity(1, &stream)
            .read_line(&mut command)
            .unwrap();
        if command == "end\n" {
            return;
        }
        thread::spawn(move || obey(&mut stream, &command).unwrap());
    }
}

fn obey(stream: &mut UnixStream, command: &str) -> io::Result<()> {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[..] {
        ["entropy"] => {
            let current = fs::read_to_string("/sys/class/misc/hw_random/rng_current")?;
            let mut bytes = [0; 16];
            File::open("/dev/hwrng")?.read_exact(&mut bytes)?;
            assert_ne!(bytes, [0; 16]);
            writeln!(stream, "{} 16 bytes", current.trim())
        }
        ["network"] => {
            let address = fs::read_to_string("/sys/class/net/eth0/address")?;
            let carrier = fs::read_to_string("/sys/class/net/eth0/carrier")?;
            writeln!(stream, "{} carrier {}", address.trim(), carrier.trim())
        }
        ["disks"] => {
            for disk in fs::read_dir("/sys/block")?
                .flatten()
                .map(|entry| entry.path())
            {
                let read = |name| fs::read_to_string(disk.join(name));
                if let Ok(serial) = read("serial") {
                    let (size, read_only) = (read("size")?, read("ro")?);
                    writeln!(stream, "{serial} {} {}", size.trim(), read_only.trim())?;
                }
            }
            Ok(())
        }
        ["read", serial] => {
            let bytes = fs::read(device(serial))?;
            writeln!(stream, "{:016x}", digest(&bytes))
        }
        ["write", serial, at] => writeln!(stream, "{:?}", write_mebibyte(serial, at)),
        ["discard", serial, at] => {
            let status = Command::new("/bin/blkdiscard")
                .args(["-o", at, "-l", "1048576"])
                .arg(device(serial))
                .status()?;
            writeln!(
                stream,
                "{:?}",
                if status.success() {
                    Ok(())
                } else {
                    Err(status)
                }
            )
        }
        ["sink"] => {
            let received = read_pattern(stream)?;
            writeln!(stream, "{received}")
        }
        ["source", total] => {
            write_pattern(stream, total.parse().unwrap());
            Ok(())
        }
        ["echo"] => io::copy(&mut stream.try_clone()?, stream).map(drop),
        ["connect"] => {
            let host = VsockAddr::new(CID_HOST, 5);
            writeln!(stream, "{:?}", connect(vsock().as_raw_fd(), &host))
        }
        _ => writeln!(stream, "no such command: {command:?}"),
    }
}

/// The device node of a slot, which the guest finds by its serial number.
fn device(serial: &str) -> PathBuf {
    let disks = fs::read_dir("/sys/block").unwrap().flatten();
    let named =
        |path: &Path| fs::read_to_string(path.join("serial")).is_ok_and(|found| found == serial);
    let disk = disks
        .map(|entry| entry.path())
        .find(|path| named(path))
        .unwrap();
    Path::new("/dev").join(disk.file_name().unwrap())
}

fn write_mebibyte(serial: &str, at: &str) -> io::Result<()> {
    let disk = File::options().write(true).open(device(serial))?;
    disk.write_all_at(&[0xa5; 1 << 20], at.parse().unwrap())?;
    disk.sync_all()
}

fn vsock() -> OwnedFd {
    socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap()
}
