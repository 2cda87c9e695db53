// SPDX-License-Identifier: Apache-2.0
//! Every virtio device under the drivers of a stock kernel: host half and guest half are one
//! program. `image` puts it into the guest, where it runs as `guest`; the host half, here, talks
//! to it over vsock.
//!
//! A host that cannot run guests says so in one line and passes; with `CUBE_REQUIRE_KVM=1` it
//! fails. `dev/vm cargo test -p cube-vmm --test vm_devices` runs them anywhere.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code, though clippy does not see it inside a test function"
)]

mod guest;
mod image;
#[path = "../machine/mod.rs"]
mod machine;
mod pattern;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cube_vmm::exit::ExitReason;
use guest::PORT;
use machine::{Guest, Machine, PATIENCE, file_of, host_runs_guests, stock_kernel};
use pattern::{digest, pattern, read_pattern, write_pattern};

/// Where nobody listens in the guest.
const DEAF_PORT: u32 = 1025;

/// What goes through a socket each way, one way at a time and then both at once.
const STREAM_BYTES: u64 = 64 << 20;
const ECHO_BYTES: u64 = 16 << 20;

/// Size of the test disk.
const DISK_BYTES: u64 = 16 << 20;

#[test]
fn devices_work_under_the_drivers_of_linux() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let mut host = Host::boot(&kernel);
    entropy_and_network(&mut host);
    disks(&mut host);
    refusals(&mut host);
    streams(&mut host);
    host.order("end");
    assert_eq!(host.machine.wait(), ExitReason::Stopped);
}

fn entropy_and_network(host: &mut Host) {
    assert_eq!(host.ask("entropy"), "virtio_rng.0 16 bytes\n");
    assert_eq!(host.ask("network"), "02:cb:e0:00:00:01 carrier 0\n");
}

fn disks(host: &mut Host) {
    let empty: BTreeMap<String, (u64, bool)> = (0..8)
        .map(|slot| (format!("cube-slot-{slot}"), (0, false)))
        .collect();
    assert_eq!(host.disks(), empty);

    let (file, content) = disk();
    let read_write = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file.path())
        .unwrap();
    host.machine
        .client
        .attach(3, read_write.into(), false)
        .unwrap();
    host.wait_for_disk("cube-slot-3", DISK_BYTES);
    let read = host.measure("16 MiB from a disk", |host| host.ask("read cube-slot-3"));
    assert_eq!(read, format!("{:016x}\n", digest(&content)));

    // The guest writes one MiB in the middle, and the rest stays as it was.
    assert_eq!(host.ask("write cube-slot-3 5242880"), "Ok(())\n");
    let mut expected = content.clone();
    expected[5 << 20..6 << 20].fill(0xa5);
    assert_eq!(digest(&fs::read(file.path()).unwrap()), digest(&expected));
    assert_eq!(host.ask("discard cube-slot-3 4194304"), "Ok(())\n");
    expected[4 << 20..5 << 20].fill(0);
    assert_eq!(digest(&fs::read(file.path()).unwrap()), digest(&expected));

    // The same file once more, for reading only.
    let read_only = File::open(file.path()).unwrap();
    host.machine
        .client
        .attach(0, read_only.into(), true)
        .unwrap();
    host.wait_for_disk("cube-slot-0", DISK_BYTES);
    assert_eq!(
        host.ask("read cube-slot-0"),
        format!("{:016x}\n", digest(&expected))
    );
    let answer = host.ask("write cube-slot-0 0");
    assert!(answer.contains("Input/output error"), "{answer}");
    assert_eq!(digest(&fs::read(file.path()).unwrap()), digest(&expected));

    for slot in [0, 3] {
        host.machine.client.detach(slot).unwrap();
        host.wait_for_disk(&format!("cube-slot-{slot}"), 0);
    }
    assert_eq!(host.disks(), empty);
}

fn refusals(host: &mut Host) {
    assert_eq!(
        connect_to(&host.machine, DEAF_PORT).unwrap_err().kind(),
        ErrorKind::UnexpectedEof
    );
    let answer = host.ask("connect");
    assert!(answer.contains("ECONNRESET"), "{answer}");
}

fn streams(host: &mut Host) {
    let received = host.measure("64 MiB to the guest", |host| {
        let mut upwards = host.order("sink");
        write_pattern(&mut upwards, STREAM_BYTES);
        upwards.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        upwards.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(received, format!("{STREAM_BYTES}\n"));

    let sent = host.measure("64 MiB from the guest", |host| {
        read_pattern(&mut host.order(&format!("source {STREAM_BYTES}"))).unwrap()
    });
    assert_eq!(sent, STREAM_BYTES);

    // Both ways at once, through a guest that sends back what it gets.
    let echoed = host.measure("16 MiB there and back", |host| {
        let mut there = host.order("echo");
        let mut back = there.try_clone().unwrap();
        let reader = thread::spawn(move || read_pattern(&mut back).unwrap());
        write_pattern(&mut there, ECHO_BYTES);
        there.shutdown(Shutdown::Write).unwrap();
        reader.join().unwrap()
    });
    assert_eq!(echoed, ECHO_BYTES);

    // As small calls make it.
    let mut echo = host.order("echo");
    host.measure("100 round trips", |_| {
        for _ in 0..100 {
            echo.write_all(b"ping").unwrap();
            echo.read_exact(&mut [0; 4]).unwrap();
        }
    });

    // Many at once; each gets its own.
    let echoes: Vec<_> = (0..100u8)
        .map(|number| (number, host.order("echo")))
        .collect();
    for (number, mut echo) in echoes {
        echo.write_all(&[number; 1000]).unwrap();
        echo.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        echo.read_to_end(&mut all).unwrap();
        assert_eq!(all, [number; 1000]);
    }
}

/// The booted machine, with its guest half listening.
struct Host {
    machine: Machine,
}

impl Host {
    fn boot(kernel: &Path) -> Self {
        let begun = Instant::now();
        let mut machine = Machine::run(Guest {
            kernel: File::open(kernel).unwrap().into(),
            initramfs: file_of(&image::initramfs()),
            vcpus: 2,
            memory_mib: 512,
            cmdline: String::new(),
        });
        // Before there is a driver every connection is closed without OK.
        let early = connect_to(&machine, PORT).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::UnexpectedEof);
        machine.wait_for_serial("guest half listens");
        println!("the guest half listens after {:?}", begun.elapsed());
        Self { machine }
    }

    /// A new connection with a command sent.
    fn order(&mut self, command: &str) -> UnixStream {
        let mut stream = connect_to(&self.machine, PORT).unwrap_or_else(|error| {
            panic!("{error}\n{}\n{}", self.machine.serial(), self.machine.log())
        });
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        stream
    }

    /// The whole answer to a command.
    fn ask(&mut self, command: &str) -> String {
        let mut answer = String::new();
        self.order(command).read_to_string(&mut answer).unwrap();
        answer
    }

    /// The guest's disks by serial number: size in bytes, and whether the kernel thinks that it is read-only.
    fn disks(&mut self) -> BTreeMap<String, (u64, bool)> {
        let answer = self.ask("disks");
        let disk = |line: &str| {
            let mut words = line.split(' ');
            let serial = words.next().unwrap().to_owned();
            let sectors: u64 = words.next().unwrap().parse().unwrap();
            (serial, (sectors * 512, words.next() == Some("1")))
        };
        answer.lines().map(disk).collect()
    }

    /// Does `work` and prints what it took: time, which depends on the host, and exits to the VMM,
    /// which do not.
    fn measure<R>(&mut self, what: &str, work: impl FnOnce(&mut Self) -> R) -> R {
        let (begun, before) = (Instant::now(), self.exits());
        let result = work(self);
        let exits = self.exits() - before;
        println!("{what}: {:?}, {exits} exits", begun.elapsed());
        result
    }

    fn exits(&mut self) -> u64 {
        self.machine.client.stats().unwrap().vcpu_exits.iter().sum()
    }

    fn wait_for_disk(&mut self, serial: &str, bytes: u64) {
        let begun = Instant::now();
        while self.disks().get(serial).map(|disk| disk.0) != Some(bytes) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{serial} is not of {bytes} bytes:\n{}",
                self.machine.serial()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The runtime's side of the hybrid socket.
fn connect_to(machine: &Machine, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(machine.vsock())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "), "{line:?}");
    Ok(stream)
}

/// A disk image and its content.
fn disk() -> (tempfile::NamedTempFile, Vec<u8>) {
    let mut content = vec![0; usize::try_from(DISK_BYTES).unwrap()];
    for (at, byte) in content.iter_mut().enumerate() {
        *byte = pattern(at as u64 * 7);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content).unwrap();
    (file, content)
}
