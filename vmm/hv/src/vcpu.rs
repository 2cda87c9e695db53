// SPDX-License-Identifier: Apache-2.0
//! One virtual processor: its first state, and its exits as data. Its state as data is in `state`.

mod pre_fault;
mod state;

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, Msrs, kvm_cpuid_entry2,
    kvm_fpu, kvm_lapic_state, kvm_msr_entry,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use thiserror::Error;
use vm_memory::GuestAddress;
use vmm_sys_util::errno;

use crate::kick::{Kicker, Shared};
use crate::long_mode::LongMode;
use crate::memory::GuestMemory;
use crate::{cpuid, msr};

pub use state::VcpuState;

/// Why a virtual processor could not be set up.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// `KVM_CREATE_VCPU`.
    #[error("KVM could not create virtual processor {id}")]
    Create {
        /// Its number.
        id: u8,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
    /// The means to interrupt it.
    #[error("virtual processor {id} could not be made interruptible")]
    Kick {
        /// Its number.
        id: u8,
        /// The system's answer.
        #[source]
        source: errno::Error,
    },
    /// One part of its state.
    #[error("KVM refused the {part} of virtual processor {id}")]
    State {
        /// Its number.
        id: u8,
        /// Which part.
        part: &'static str,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
    /// The host has enabled more extended state than this program asked for.
    #[error(
        "virtual processor {id} has {bytes} bytes of extended state, {} can be saved",
        state::MAX_XSAVE_BYTES
    )]
    LargeXsave {
        /// Its number.
        id: u8,
        /// What `KVM_CAP_XSAVE2` says.
        bytes: i32,
    },
    /// A model-specific register.
    #[error("KVM refused register {index:#x} of virtual processor {id}")]
    Msr {
        /// Its number.
        id: u8,
        /// The register.
        index: u32,
    },
}

/// Why a virtual processor cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// `KVM_RUN` failed.
    #[error("KVM could not run virtual processor {id}")]
    Run {
        /// Its number.
        id: u8,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
    /// The hardware refused the processor's state.
    #[error("the hardware refused to enter virtual processor {id} (reason {reason:#x})")]
    Entry {
        /// Its number.
        id: u8,
        /// `hardware_entry_failure_reason`.
        reason: u64,
    },
    /// KVM met something it cannot emulate or deliver.
    #[error("KVM failed inside virtual processor {id}: {}", suberror_name(*suberror))]
    Internal {
        /// Its number.
        id: u8,
        /// `kvm_run.internal.suberror`.
        suberror: u32,
    },
    /// KVM left the guest for a reason that this machine does not arm.
    #[error("virtual processor {id} left the guest for the unknown reason {exit}")]
    Unexpected {
        /// Its number.
        id: u8,
        /// The exit.
        exit: String,
    },
}

fn suberror_name(suberror: u32) -> String {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction cannot be emulated".to_owned(),
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an event cannot be delivered".to_owned(),
        other => format!("internal error {other}"),
    }
}

/// Why the processor left the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// The guest reads from a port; the answer goes into `data`, `width` bytes an element.
    PioRead {
        /// The port.
        port: u16,
        /// Bytes per element: 1, 2 or 4.
        width: u8,
        /// Where the answer goes.
        data: &'a mut [u8],
    },
    /// The guest writes to a port.
    PioWrite {
        /// The port.
        port: u16,
        /// Bytes per element: 1, 2 or 4.
        width: u8,
        /// What it writes.
        data: &'a [u8],
    },
    /// The guest reads where it has no memory; the answer goes into `data`.
    MmioRead {
        /// The guest-physical address.
        address: u64,
        /// Where the answer goes, 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// The guest writes where it has no memory.
    MmioWrite {
        /// The guest-physical address.
        address: u64,
        /// What it writes, 1 to 8 bytes.
        data: &'a [u8],
    },
    /// A [`Kicker`] asked for attention; or nothing at all: KVM may come back for no reason.
    Kicked,
    /// The processor shut down: a triple fault.
    Shutdown,
}

/// A virtual processor. Run it from one thread.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u8,
    shared: Arc<Shared>,
    /// Size of the extended state (`KVM_CAP_XSAVE2`); 0 on hosts that know only 4096.
    xsave_bytes: i32,
    /// Held, not used: what the guest writes to must stay mapped for as long as it can run.
    _memory: GuestMemory,
}

impl Vcpu {
    pub(crate) fn new(
        fd: VcpuFd,
        id: u8,
        run_size: usize,
        xsave_bytes: i32,
        memory: GuestMemory,
    ) -> Result<Self, VcpuError> {
        let shared = Shared::new(&fd, run_size).map_err(|source| VcpuError::Kick { id, source })?;
        Ok(Self {
            fd,
            id,
            shared,
            xsave_bytes,
            _memory: memory,
        })
    }

    /// Its number, which is its APIC id.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// A handle to make it leave the guest.
    pub fn kicker(&self) -> Kicker {
        self.shared.kicker()
    }

    /// Sets what every processor of a machine needs before its first instruction, whether it
    /// starts at once or waits for the guest's INIT and SIPI: features, registers that
    /// firmware would have set, and the local interrupt pins.
    pub fn set_up(&self, supported: &[kvm_cpuid_entry2], vcpus: u8) -> Result<(), VcpuError> {
        let entries = cpuid::for_vcpu(supported, self.id, vcpus);
        // The feature list comes first: KVM checks the registers that follow against it.
        let features = CpuId::from_entries(&entries)
            .map_err(|_| self.refused("feature list")(errno::Error::new(libc::E2BIG)))?;
        self.fd
            .set_cpuid2(&features)
            .map_err(self.refused("feature list"))?;
        self.write_msrs(&msr::at_boot())?;
        let fpu = kvm_fpu {
            fcw: 0x37f,    // x87 and SSE as the psABI has them at program start:
            mxcsr: 0x1f80, // all exceptions masked
            ..Default::default()
        };
        self.fd
            .set_fpu(&fpu)
            .map_err(self.refused("floating point state"))?;
        self.set_interrupt_pins()
    }

    /// Places this processor at `entry` in 64-bit mode with `argument` in RSI.
    pub fn enter_at(
        &self,
        mode: &LongMode,
        entry: GuestAddress,
        argument: u64,
    ) -> Result<(), VcpuError> {
        let mut special = self
            .fd
            .get_sregs()
            .map_err(self.refused("segment registers"))?;
        mode.set_segments(&mut special);
        self.fd
            .set_sregs(&special)
            .map_err(self.refused("segment registers"))?;
        self.fd
            .set_regs(&LongMode::registers(entry, argument))
            .map_err(self.refused("general registers"))
    }

    /// Declares the calling thread as the one that runs this processor; kicks go to it.
    pub fn adopt_thread(&self) {
        self.shared.adopt_thread();
    }

    /// Runs the guest until it needs something.
    pub fn run(&mut self) -> Result<Exit<'_>, RunError> {
        let id = self.id;
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => Ok(Exit::PioRead {
                port,
                width: self.shared.io_width(),
                data,
            }),
            Ok(VcpuExit::IoOut(port, data)) => Ok(Exit::PioWrite {
                port,
                width: self.shared.io_width(),
                data,
            }),
            Ok(VcpuExit::MmioRead(address, data)) => Ok(Exit::MmioRead { address, data }),
            Ok(VcpuExit::MmioWrite(address, data)) => Ok(Exit::MmioWrite { address, data }),
            Ok(VcpuExit::Intr) => {
                self.shared.acknowledge();
                Ok(Exit::Kicked)
            }
            Ok(VcpuExit::Shutdown) => Ok(Exit::Shutdown),
            Ok(VcpuExit::FailEntry(reason, _)) => Err(RunError::Entry { id, reason }),
            Ok(VcpuExit::InternalError) => Err(RunError::Internal {
                id,
                suberror: self.shared.internal_suberror(),
            }),
            Ok(other) => Err(RunError::Unexpected {
                id,
                exit: format!("{other:?}"),
            }),
            // EAGAIN: a processor that waits for its SIPI was woken for something else.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.shared.acknowledge();
                Ok(Exit::Kicked)
            }
            Err(source) => Err(RunError::Run { id, source }),
        }
    }

    /// Tells the guest's clock that the processor did not run for a while on purpose, so that
    /// the guest's lockup detector does not count the time (KVM API, section 4.70).
    pub fn forgive_pause(&self) -> Result<(), VcpuError> {
        match self.fd.kvmclock_ctrl() {
            // The guest does not use the clock (yet): there is nothing to forgive.
            Err(error) if error.errno() == libc::EINVAL => Ok(()),
            result => result.map_err(self.refused("clock")),
        }
    }

    fn write_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), VcpuError> {
        let list = Msrs::from_entries(entries).map_err(|_| self.too_many_msrs())?;
        let set = self
            .fd
            .set_msrs(&list)
            .map_err(self.refused("model-specific registers"))?;
        // KVM stops at the first register it refuses and says how many it took.
        match entries.get(set) {
            Some(refused) => Err(VcpuError::Msr {
                id: self.id,
                index: refused.index,
            }),
            None => Ok(()),
        }
    }

    fn too_many_msrs(&self) -> VcpuError {
        self.refused("model-specific registers")(errno::Error::new(libc::E2BIG))
    }

    /// LINT1 takes the NMI, as firmware leaves it and the MADT says (Intel SDM vol. 3, section
    /// 11.5.1). LINT0 is masked: KVM's legacy controller sits on it, unmasked and with its
    /// vectors at 0, and a guest that has been told of no such controller would take its device
    /// interrupts for exceptions.
    fn set_interrupt_pins(&self) -> Result<(), VcpuError> {
        const LVT_LINT0: usize = 0x350;
        const LVT_LINT1: usize = 0x360;
        const MODE_NMI: u32 = 4 << 8;
        const MASKED: u32 = 1 << 16;
        let mut lapic = self
            .fd
            .get_lapic()
            .map_err(self.refused("local interrupt controller"))?;
        set_register(&mut lapic, LVT_LINT0, MASKED);
        set_register(&mut lapic, LVT_LINT1, MODE_NMI);
        self.fd
            .set_lapic(&lapic)
            .map_err(self.refused("local interrupt controller"))
    }

    fn refused(&self, part: &'static str) -> impl FnOnce(errno::Error) -> VcpuError + use<> {
        let id = self.id;
        move |source| VcpuError::State { id, part, source }
    }
}

fn set_register(lapic: &mut kvm_lapic_state, register: usize, value: u32) {
    let bytes = lapic.regs.iter_mut().skip(register);
    for (byte, new) in bytes.zip(value.to_le_bytes()) {
        *byte = new.cast_signed();
    }
}
