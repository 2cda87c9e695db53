// SPDX-License-Identifier: Apache-2.0
//! The host half of a VM test: one `cube-vmm` process, driven through its control socket as
//! the runtime does it.

#![allow(
    dead_code,
    reason = "every test binary compiles this module for itself and uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code, though clippy does not see it inside a test function"
)]

pub mod bzimage;
pub mod initramfs;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cube_vmm::config::{BootConfig, RestoreConfig};
use cube_vmm::control::{BootFiles, Client, ControlError, RestoreFiles, SaveFiles};
use cube_vmm::exit::ExitReason;
use cube_vmm::probe::{self, Grade};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The user a machine runs as in these tests.
pub const UID: u32 = 61_234;

/// Longest that anything here takes in the development VM, many times over.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Whether this host can run guests. If not, says so in one line, or fails if it must.
pub fn host_runs_guests() -> bool {
    let Err(reason) = check_host() else {
        return true;
    };
    assert!(
        std::env::var_os("CUBE_REQUIRE_KVM").is_none_or(|value| value != "1"),
        "CUBE_REQUIRE_KVM=1, but {reason}"
    );
    println!("skipped: {reason}");
    false
}

fn check_host() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can build the jail".to_owned());
    }
    let device = kvm().map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
    let speed = probe::measure(device).map_err(|error| format!("no guest runs here: {error}"))?;
    match speed.grade() {
        Grade::Hardware | Grade::Emulated => Ok(()),
        Grade::Unusable => Err(format!(
            "this host's KVM interprets guests ({:.0} ns per instruction)",
            speed.ns_per_instruction
        )),
    }
}

/// A listening socket, whether or not there was one at this path before.
fn listener(path: &Path) -> OwnedFd {
    drop(std::fs::remove_file(path));
    UnixListener::bind(path).unwrap().into()
}

fn kvm() -> std::io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/kvm")?;
    Ok(file.into())
}

/// The stock kernel, if this machine has one; says so or fails if not.
pub fn stock_kernel() -> Option<PathBuf> {
    let found = match std::env::var_os("CUBE_KERNEL") {
        Some(path) => Some(PathBuf::from(path)),
        None => std::fs::read_dir("/var/cache/cube/kernel/current/boot")
            .ok()
            .and_then(|entries| {
                let mut paths = entries.flatten().map(|entry| entry.path());
                paths.find(|path| path.to_string_lossy().contains("/vmlinuz-"))
            }),
    };
    if found.is_none() {
        assert!(
            std::env::var_os("CUBE_REQUIRE_KVM").is_none_or(|value| value != "1"),
            "CUBE_REQUIRE_KVM=1, but there is no guest kernel; run dev/setup"
        );
        println!("skipped: no guest kernel; run dev/setup");
    }
    found
}

/// What is to run.
pub struct Guest {
    pub kernel: OwnedFd,
    pub initramfs: OwnedFd,
    pub vcpus: u8,
    pub memory_mib: u32,
    pub cmdline: String,
}

impl Guest {
    /// Seven lines of machine code, or so, in place of a kernel.
    pub fn code(code: &[u8]) -> Self {
        Self {
            kernel: file_of(&bzimage::around(code)),
            initramfs: file_of(b""),
            vcpus: 1,
            memory_mib: 128,
            cmdline: String::new(),
        }
    }

    /// The stock kernel with a shell script as `/init`.
    pub fn script(kernel: PathBuf, script: &str) -> Self {
        Self {
            kernel: File::open(kernel).unwrap().into(),
            initramfs: file_of(&initramfs::with_script(script)),
            vcpus: 1,
            memory_mib: 256,
            cmdline: String::new(),
        }
    }
}

/// The files of a saved machine.
pub struct Snapshot {
    pub state: File,
    pub memory: File,
    pub working_set: Option<File>,
}

impl Snapshot {
    /// The same files once more, from their beginning: open files have one position.
    pub fn again(&self) -> Self {
        let again = |file: &File| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            File::options().read(true).write(true).open(path).unwrap()
        };
        Self {
            state: again(&self.state),
            memory: again(&self.memory),
            working_set: self.working_set.as_ref().map(again),
        }
    }

    /// A copy of the memory file, for the next of a chain.
    fn memory_copy(&self) -> File {
        let mut copy = tempfile::tempfile().unwrap();
        std::io::copy(&mut self.again().memory, &mut copy).unwrap();
        copy
    }
}

/// A file with this content.
pub fn file_of(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.into()
}

/// A `cube-vmm` process.
pub struct Machine {
    pub client: Client,
    /// The network namespace to boot into.
    pub netns: Option<OwnedFd>,
    /// Whether a restore is to tell its working set.
    pub record: bool,
    process: Child,
    directory: tempfile::TempDir,
}

impl Machine {
    /// Starts a process that has no machine yet.
    pub fn spawn() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let log = File::create(directory.path().join("vmm.log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cube-vmm"))
            .stdin(Stdio::from(theirs))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            client: Client::new(ours),
            netns: None,
            record: false,
            process,
            directory,
        }
    }

    /// Asks for a machine around `guest`.
    pub fn boot(&mut self, guest: Guest) -> Result<(), ControlError> {
        let path = |name| self.directory.path().join(name);
        let serial = File::options()
            .append(true)
            .create(true)
            .open(path("serial.log"));
        let files = BootFiles {
            kvm: kvm().unwrap(),
            kernel: guest.kernel,
            initramfs: guest.initramfs,
            vsock: listener(&path("vsock.sock")),
            serial: serial.unwrap().into(),
            netns: self.netns.take(),
        };
        let config = BootConfig {
            vcpus: guest.vcpus,
            memory_mib: guest.memory_mib,
            cmdline: guest.cmdline,
            uid: UID,
            gid: UID,
        };
        self.client.boot(&config, files)
    }

    /// Writes the paused machine, which was restored from `parent` or booted, into new files.
    pub fn save(&mut self, parent: Option<&Snapshot>) -> Snapshot {
        let memory = parent.map_or_else(|| tempfile::tempfile().unwrap(), Snapshot::memory_copy);
        let snapshot = Snapshot {
            state: tempfile::tempfile().unwrap(),
            memory,
            working_set: None,
        };
        let files = SaveFiles {
            state: snapshot.state.try_clone().unwrap().into(),
            memory: snapshot.memory.try_clone().unwrap().into(),
            pagemap: self.pagemap(),
        };
        if let Err(error) = self.client.save(&files) {
            panic!("{error}\n{}", self.log());
        }
        snapshot
    }

    /// Which pages the restored machine has touched so far.
    pub fn working_set(&mut self) -> File {
        let file = tempfile::tempfile().unwrap();
        let (into, pagemap) = (file.try_clone().unwrap().into(), self.pagemap());
        self.client.working_set(&into, &pagemap).unwrap();
        file
    }

    fn pagemap(&self) -> OwnedFd {
        let path = format!("/proc/{}/pagemap", self.pid());
        File::open(path).unwrap().into()
    }

    /// Asks for a saved machine.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), ControlError> {
        let path = |name| self.directory.path().join(name);
        let serial = File::options()
            .append(true)
            .create(true)
            .open(path("serial.log"));
        let snapshot = snapshot.again();
        let files = RestoreFiles {
            kvm: kvm().unwrap(),
            state: snapshot.state.into(),
            memory: snapshot.memory.into(),
            vsock: listener(&path("vsock.sock")),
            serial: serial.unwrap().into(),
            working_set: snapshot.working_set.map(Into::into),
            netns: self.netns.take(),
            disks: Vec::new(),
        };
        let config = RestoreConfig {
            uid: UID,
            gid: UID,
            record: self.record,
            disks: Vec::new(),
        };
        self.client.restore(&config, files)
    }

    /// Starts a process with a saved machine.
    pub fn restored(snapshot: &Snapshot) -> Self {
        let mut machine = Self::spawn();
        if let Err(error) = machine.restore(snapshot) {
            panic!("{error}\n{}", machine.log());
        }
        machine
    }

    /// Starts a process and its machine.
    pub fn run(guest: Guest) -> Self {
        let mut machine = Self::spawn();
        if let Err(error) = machine.boot(guest) {
            panic!("{error}\n{}", machine.log());
        }
        machine
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The host's side of vsock.
    pub fn vsock(&self) -> PathBuf {
        self.directory.path().join("vsock.sock")
    }

    /// What the guest has written to its console.
    pub fn serial(&self) -> String {
        self.read("serial.log")
    }

    /// What the VMM has written to its log.
    pub fn log(&self) -> String {
        self.read("vmm.log")
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.directory.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the guest has written `text`.
    pub fn wait_for_serial(&mut self, text: &str) {
        let begun = Instant::now();
        loop {
            // In this order: what a process wrote before it ended counts.
            let ended = self.process.try_wait().unwrap();
            if self.serial().contains(text) {
                return;
            }
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "no {text:?} on the console after {:?} ({ended:?}):\n{}\n--- log:\n{}",
                begun.elapsed(),
                self.serial(),
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end of the process and says why it ended.
    pub fn wait(&mut self) -> ExitReason {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return ExitReason::from_status(status)
                    .unwrap_or_else(|| panic!("{status}\n{}", self.log()));
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "the process does not end:\n{}\n--- log:\n{}",
                self.serial(),
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when the process has been waited for already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
