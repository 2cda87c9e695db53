// SPDX-License-Identifier: Apache-2.0
//! One KVM virtual machine: memory slots, interrupt controllers, and the wires to devices. Its state
//! as data is in `state`.

// UNSAFETY: hands guest memory to KVM by address, and adopts duplicated descriptors.
#![allow(
    unsafe_code,
    reason = "giving memory to KVM by address has no safe interface"
)]

mod state;

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

use kvm_bindings::{KVM_CAP_PRE_FAULT_MEMORY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, VmFd};
use thiserror::Error;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::{errno, eventfd::EventFd};

use crate::kvm::Kvm;
use crate::memory::GuestMemory;
use crate::vcpu::{Vcpu, VcpuError};

pub use state::{ClockState, IrqchipState};

/// Where Intel hosts without unrestricted guests keep a real-mode task segment (3 pages) and
/// an identity map (1 page before it): in the gap under 4 GiB where no machine has memory.
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// Why a virtual machine could not be made or wired.
#[derive(Debug, Error)]
pub enum VmError {
    /// `KVM_CREATE_VM`.
    #[error("KVM could not create a virtual machine")]
    Create(#[source] errno::Error),
    /// `KVM_SET_USER_MEMORY_REGION`.
    #[error("KVM refused guest memory of {bytes} bytes at {start:#x}")]
    Memory {
        /// Guest-physical start.
        start: u64,
        /// Length.
        bytes: u64,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
    /// `KVM_SET_TSS_ADDR` or `KVM_SET_IDENTITY_MAP_ADDR`.
    #[error("KVM refused the reserved pages for real mode")]
    RealMode(#[source] errno::Error),
    /// `KVM_CREATE_IRQCHIP`.
    #[error("KVM could not create the interrupt controllers")]
    Irqchip(#[source] errno::Error),
    /// One part of its state.
    #[error("KVM refused the {part} of the machine")]
    State {
        /// Which part.
        part: &'static str,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
    /// `KVM_IRQFD`.
    #[error("KVM could not connect interrupt {gsi}")]
    Irqfd {
        /// The interrupt's number.
        gsi: u32,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
    /// `KVM_IOEVENTFD`.
    #[error("KVM could not connect the notification at {address:#x}")]
    Ioeventfd {
        /// The guest-physical address.
        address: u64,
        /// KVM's answer.
        #[source]
        source: errno::Error,
    },
}

/// A virtual machine with its memory. Shared by reference among threads.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    memory: GuestMemory,
}

impl Vm {
    /// Makes a machine around its memory.
    ///
    /// Memory slots come before the interrupt controllers: the other way round every slot
    /// waits for a grace period that the controllers' registration left behind, 7.5 ms
    /// instead of 0.2 on Linux 6.18.
    pub fn new(kvm: &Kvm, memory: GuestMemory) -> Result<Self, VmError> {
        let fd = kvm.system.create_vm().map_err(VmError::Create)?;
        let vm = Self { fd, memory };
        for (slot, region) in (0..).zip(vm.memory.iter()) {
            vm.set_memory_slot(slot, region)?;
        }
        vm.fd
            .set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .and_then(|()| vm.fd.set_tss_address(TSS_ADDRESS))
            .map_err(VmError::RealMode)?;
        vm.fd.create_irq_chip().map_err(VmError::Irqchip)?;
        Ok(vm)
    }

    fn set_memory_slot(&self, slot: u32, region: &impl GuestMemoryRegion) -> Result<(), VmError> {
        let start = region.start_addr().raw_value();
        let refused = |source| VmError::Memory {
            start,
            bytes: region.len(),
            source,
        };
        let host = region
            .get_host_address(vm_memory::MemoryRegionAddress(0))
            .map_err(|_| refused(errno::Error::new(libc::EFAULT)))?;
        let description = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is the whole of one mapping. Only running processors use it, and each
        // of them holds the memory too.
        unsafe { self.fd.set_user_memory_region(description) }.map_err(refused)
    }

    /// Whether memory can be mapped into the guest before it runs ([`Vcpu::pre_fault`], Linux 6.11).
    pub fn can_pre_fault(&self) -> bool {
        self.fd
            .check_extension_raw(u64::from(KVM_CAP_PRE_FAULT_MEMORY))
            > 0
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Makes the virtual processor with this number (its APIC id).
    pub fn create_vcpu(&self, id: u8) -> Result<Vcpu, VcpuError> {
        let fd = self
            .fd
            .create_vcpu(u64::from(id))
            .map_err(|source| VcpuError::Create { id, source })?;
        let xsave_bytes = self.fd.check_extension_int(Cap::Xsave2);
        let run_size = self.fd.run_size();
        Vcpu::new(fd, id, run_size, xsave_bytes, self.memory.clone())
    }

    /// From now on a signal of `event` raises the edge-triggered interrupt `gsi`.
    pub fn connect_interrupt(&self, event: BorrowedFd<'_>, gsi: u32) -> Result<(), VmError> {
        as_event(event)
            .and_then(|event| self.fd.register_irqfd(&event, gsi))
            .map_err(|source| VmError::Irqfd { gsi, source })
    }

    /// From now on the guest's 32-bit write of `value` to `address` signals `event` and does
    /// not leave the kernel; other values still exit.
    pub fn connect_notification(
        &self,
        event: BorrowedFd<'_>,
        address: u64,
        value: u32,
    ) -> Result<(), VmError> {
        as_event(event)
            .and_then(|event| {
                self.fd
                    .register_ioevent(&event, &IoEventAddress::Mmio(address), value)
            })
            .map_err(|source| VmError::Ioeventfd { address, source })
    }
}

/// KVM keeps a reference to the event behind the descriptor, so the descriptor itself is only
/// needed for the call.
fn as_event(event: BorrowedFd<'_>) -> Result<EventFd, errno::Error> {
    let own = event.try_clone_to_owned().map_err(errno::Error::from)?;
    // SAFETY: the descriptor is open and owned, and its ownership moves into the `EventFd`.
    Ok(unsafe { EventFd::from_raw_fd(own.into_raw_fd()) })
}
