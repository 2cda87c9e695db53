// SPDX-License-Identifier: Apache-2.0
//! Is this `/dev/kvm` good for anything? Answered in milliseconds, by running a guest.
//!
//! A `/dev/kvm` that opens says little: on hosts with PVM the kernel's part of a guest is
//! interpreted, 300 times slower than on hardware, and some instructions are refused. So a tiny
//! guest counts down in ring 0 of 64-bit mode, and the time of one instruction tells the
//! kinds of host apart. `cube doctor` calls this through `cube_vmm::probe`.
//!
//! The guest ends by writing to a port rather than with `hlt`: without interrupt controllers,
//! where a `hlt` would come back, creating the processor makes the host's kernel patch its own
//! code.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_cpuid_entry2;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::kick::Kicker;
use crate::kvm::{Kvm, KvmError};
use crate::long_mode::LongMode;
use crate::memory::{self, GuestMemory, MemoryError};
use crate::vcpu::{Exit, RunError, Vcpu, VcpuError};
use crate::vm::{Vm, VmError};

/// The guest may not run longer than this in total, whatever the host does with it. Emulated
/// hosts that are good enough to develop on need 3 ms, hardware well under one, PVM 10; the
/// rest is for hosts that are busy, and only one where a guest never ends waits for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// Two instructions a turn. The short count is for hosts so slow that the long one would
/// take a second, the long one for those so fast that leaving the guest takes longer.
const SHORT_TURNS: u32 = 1_000;
const LONG_TURNS: u32 = 100_000;
const INSTRUCTIONS_PER_TURN: u32 = 2;

/// Each figure is the least of so many: an interrupted run says nothing.
const RUNS: u32 = 3;

/// Above either of these, somebody emulates the processor. A software translator can run the
/// counting loop nearly as fast as hardware, but leaving a guest costs it 50 us and more,
/// where hardware takes 1 and hardware under another hypervisor below 15.
const HARDWARE_NS: f64 = 1.5;
const HARDWARE_EXIT_US: f64 = 20.0;
/// Above this, a kernel takes minutes to boot where it boots at all.
const USABLE_NS: f64 = 100.0;

const TABLES: GuestAddress = GuestAddress(0x1_0000);
const CODE: GuestAddress = GuestAddress(0x2_0000);
const MEMORY_BYTES: u64 = 0x10_0000;
const END_PORT: u16 = 0x80;
/// `again: dec rsi; jnz again; out 0x80, al`
const COUNT_DOWN: [u8; 7] = [0x48, 0xff, 0xce, 0x75, 0xfb, 0xe6, 0x80];

/// How fast the host runs a guest's kernel code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Nanoseconds for one simple instruction in ring 0.
    pub ns_per_instruction: f64,
    /// Microseconds to leave the guest for a port access and come back.
    pub exit_us: f64,
}

/// What a speed means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// The processor runs the guest itself.
    Hardware,
    /// Virtualisation is emulated (a development VM): everything works, slowly.
    Emulated,
    /// Guest kernel code is interpreted (PVM and the like): no kernel boots in useful time.
    Unusable,
}

impl Speed {
    /// The kind of host that runs a guest at this speed.
    pub fn grade(self) -> Grade {
        if self.ns_per_instruction > USABLE_NS {
            Grade::Unusable
        } else if self.ns_per_instruction > HARDWARE_NS || self.exit_us > HARDWARE_EXIT_US {
            Grade::Emulated
        } else {
            Grade::Hardware
        }
    }
}

/// Why no guest could be timed. A host that gives one of these runs no machine either.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It is not KVM, or lacks something.
    #[error("the host's KVM is unfit")]
    Kvm(#[from] KvmError),
    /// No memory.
    #[error("the test guest got no memory")]
    Memory(#[from] MemoryError),
    /// The memory could not be written.
    #[error("the test guest could not be written")]
    Write(#[from] GuestMemoryError),
    /// No virtual machine.
    #[error("the test guest's machine could not be made")]
    Vm(#[from] VmError),
    /// No processor.
    #[error("the test guest's processor could not be made")]
    Vcpu(#[from] VcpuError),
    /// The processor stopped.
    #[error("the test guest could not run")]
    Run(#[from] RunError),
    /// It did something that its seven bytes of code cannot do.
    #[error("the test guest left its code: {exit}")]
    Astray {
        /// How it was seen.
        exit: String,
    },
    /// The deadline passed.
    #[error("the test guest did not end within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// Times the test guest on an open `/dev/kvm`.
pub fn measure(device: OwnedFd) -> Result<Speed, ProbeError> {
    let guest = Blueprint::new(device)?.build()?;
    let kicker = guest.vcpu.kicker();
    let (finished, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || kick_at_deadline(&kicker, &wait));
        let speed = guest.speed();
        drop(finished);
        speed
    })
}

/// The least that a virtual machine costs this host: from `KVM_CREATE_VM` until the test guest has
/// run two instructions and left again. `cube bench shell` is this, many times.
///
/// Without the deadline of [`measure`], whose thread would be in the figure: ask that first.
pub fn shell(device: OwnedFd) -> Result<Duration, ProbeError> {
    let blueprint = Blueprint::new(device)?;
    let begun = Instant::now();
    let mut guest = blueprint.build()?;
    guest.vcpu.adopt_thread();
    guest.time(1)?;
    Ok(begun.elapsed())
}

/// The test guest before there is a machine for it.
struct Blueprint {
    kvm: Kvm,
    memory: GuestMemory,
    mode: LongMode,
    cpuid: Vec<kvm_cpuid_entry2>,
}

impl Blueprint {
    fn new(device: OwnedFd) -> Result<Self, ProbeError> {
        let kvm = Kvm::new(device)?;
        let memory = memory::allocate(&[(0, MEMORY_BYTES)])?;
        let mode = LongMode::install(&memory, TABLES)?;
        memory.write_slice(&COUNT_DOWN, CODE)?;
        let cpuid = kvm.supported_cpuid()?;
        Ok(Self {
            kvm,
            memory,
            mode,
            cpuid,
        })
    }

    fn build(self) -> Result<Guest, ProbeError> {
        let vm = Vm::new(&self.kvm, self.memory)?;
        let vcpu = vm.create_vcpu(0)?;
        vcpu.set_up(&self.cpuid, 1)?;
        Ok(Guest {
            vcpu,
            mode: self.mode,
            started: Instant::now(),
        })
    }
}

fn kick_at_deadline(kicker: &Kicker, finished: &mpsc::Receiver<()>) {
    if finished.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
        kicker.kick();
    }
}

struct Guest {
    vcpu: Vcpu,
    mode: LongMode,
    started: Instant,
}

impl Guest {
    fn speed(mut self) -> Result<Speed, ProbeError> {
        self.vcpu.adopt_thread();
        // One turn is the price of entering and leaving, and takes the first page faults.
        let overhead = self.fastest(1)?;
        let short = speed(self.fastest(SHORT_TURNS)?, overhead, SHORT_TURNS);
        if short.grade() == Grade::Unusable {
            return Ok(short);
        }
        let long = self.fastest(LONG_TURNS)?;
        Ok(speed(long, overhead, LONG_TURNS))
    }

    fn fastest(&mut self, turns: u32) -> Result<Duration, ProbeError> {
        let mut fastest = Duration::MAX;
        for _ in 0..RUNS {
            fastest = fastest.min(self.time(turns)?);
        }
        Ok(fastest)
    }

    fn time(&mut self, turns: u32) -> Result<Duration, ProbeError> {
        self.vcpu.enter_at(&self.mode, CODE, u64::from(turns))?;
        let begun = Instant::now();
        loop {
            match self.vcpu.run()? {
                Exit::PioWrite { port: END_PORT, .. } => return Ok(begun.elapsed()),
                Exit::Kicked if self.started.elapsed() < DEADLINE => {}
                Exit::Kicked => return Err(ProbeError::Deadline),
                other => {
                    return Err(ProbeError::Astray {
                        exit: format!("{other:?}"),
                    });
                }
            }
        }
    }
}

fn speed(taken: Duration, overhead: Duration, turns: u32) -> Speed {
    let instructions = f64::from(turns * INSTRUCTIONS_PER_TURN);
    Speed {
        ns_per_instruction: taken.saturating_sub(overhead).as_secs_f64() * 1e9 / instructions,
        exit_us: overhead.as_secs_f64() * 1e6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_have_their_grade() {
        let check = |ns_per_instruction, exit_us, expect| {
            let speed = Speed {
                ns_per_instruction,
                exit_us,
            };
            assert_eq!(speed.grade(), expect);
        };
        check(0.2, 1.0, Grade::Hardware);
        check(1.0, 12.0, Grade::Hardware);
        check(0.8, 55.0, Grade::Emulated);
        check(2.3, 55.0, Grade::Emulated);
        check(5.0, 5.0, Grade::Emulated);
        check(300.0, 3.0, Grade::Unusable);
    }

    #[test]
    fn the_price_of_leaving_is_not_counted() {
        let measured = speed(Duration::from_micros(60), Duration::from_micros(55), 2500);
        assert!((measured.ns_per_instruction - 1.0).abs() < 1e-9);
        assert!((measured.exit_us - 55.0).abs() < 1e-9);
        let noise = speed(Duration::from_micros(50), Duration::from_micros(55), 1);
        assert!(noise.ns_per_instruction.abs() < 1e-9);
    }

    /// KVM, or nothing with a printed reason.
    fn device() -> Option<OwnedFd> {
        let mut options = std::fs::File::options();
        match options.read(true).write(true).open("/dev/kvm") {
            Ok(device) => Some(device.into()),
            Err(_) => {
                let required = std::env::var_os("CUBE_REQUIRE_KVM").is_some_and(|it| it == "1");
                assert!(
                    !required,
                    "CUBE_REQUIRE_KVM=1, but /dev/kvm cannot be opened"
                );
                println!("skipped: no /dev/kvm here");
                None
            }
        }
    }

    #[test]
    fn a_host_with_kvm_answers_in_time() {
        let Some(device) = device() else { return };
        let begun = Instant::now();
        let result = measure(device);
        println!("{result:?} after {:?}", begun.elapsed());
        assert!(begun.elapsed() < DEADLINE * 2, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_shell_takes_time_and_not_much() {
        let Some(device) = device() else { return };
        let begun = Instant::now();
        let took = shell(device).unwrap();
        assert!(took > Duration::ZERO && took <= begun.elapsed(), "{took:?}");
        assert!(took < DEADLINE, "{took:?}");
    }
}
