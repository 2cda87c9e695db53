// SPDX-License-Identifier: Apache-2.0
//! One virtual processor as data, both ways.
//!
//! The order of a restore, and what each step needs to be there before it:
//!
//! 1. features (CPUID): KVM checks every register that follows against them;
//! 2. run state: an application processor that waits for its SIPI takes no registers otherwise;
//! 3. segment and control registers: they carry the APIC's base and mode, which decide how the local
//!    APIC's page is read, and EFER;
//! 4. XCR0 before the extended state that it enables;
//! 5. the local APIC before the model-specific registers: TSC_DEADLINE is dropped unless the APIC's
//!    timer is in deadline mode already;
//! 6. the TSC before TSC_DEADLINE: a deadline is a point of the TSC's time, and one that is set before
//!    it fires never or at once;
//! 7. pending events last: what was written before may set some.
//!
//! All TSCs of a machine count alike. They were read one after the other and would be set one after the
//! other, and KVM takes them for one only if that took about as long both times. So the first processor
//! is given its TSC, and the others its distance from the host's (`KVM_VCPU_TSC_OFFSET`). With unlike
//! ones KVM has no master clock, and the guest's time depends on the processor that looks.
//!
//! The interrupt controllers of the machine must exist before (the local APIC belongs to them); their
//! state and the clock come after, see [`super::super::vm`].

// UNSAFETY: KVM_SET_XSAVE reads as many bytes as the process has enabled, which its binding leaves to
// the caller to check.
#![allow(
    unsafe_code,
    reason = "the size of the extended state is known at run time only"
)]

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno;

use super::{Vcpu, VcpuError};
use crate::{msr, tsc};

/// The extended state that fits into `struct kvm_xsave`. More of it has to be asked for by
/// arch_prctl(2) (Documentation/arch/x86/xstate.rst), which this program does not.
pub(crate) const MAX_XSAVE_BYTES: i32 = 4096;

/// How far two TSCs may differ and count as one: what Linux's own clock steering corrects, and what
/// KVM tolerates before it scales (`tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

/// A saved processor. Its parts are the kernel's own structures, whose layout is its ABI.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: Box<kvm_xsave>,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
    tsc_khz: u32,
}

impl Vcpu {
    /// The state of a processor that does not run. `msrs` are the registers that KVM offers to save.
    ///
    /// Its last exit must have been answered: [`Exit::Kicked`](crate::Exit::Kicked) is the only one
    /// that says so (KVM API, section 5, "KVM_EXIT_IO": pending operations complete on the next
    /// entry).
    pub fn save(&self, msrs: &[u32]) -> Result<VcpuState, VcpuError> {
        let refused = |part| self.refused(part);
        let fd = &self.fd;
        self.check_xsave()?;
        Ok(VcpuState {
            // Waiting processors are woken by events, so this comes before those are taken.
            mp_state: fd.get_mp_state().map_err(refused("run state"))?,
            regs: fd.get_regs().map_err(refused("general registers"))?,
            sregs: fd.get_sregs().map_err(refused("segment registers"))?,
            xsave: Box::new(fd.get_xsave().map_err(refused("extended state"))?),
            xcrs: fd
                .get_xcrs()
                .map_err(refused("extended control registers"))?,
            debug_regs: fd.get_debug_regs().map_err(refused("debug registers"))?,
            lapic: fd
                .get_lapic()
                .map_err(refused("local interrupt controller"))?,
            tsc_khz: fd.get_tsc_khz().map_err(refused("TSC frequency"))?,
            cpuid: fd
                .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
                .map_err(refused("feature list"))?
                .as_slice()
                .to_vec(),
            msrs: self.read_msrs(msrs)?,
            events: fd.get_vcpu_events().map_err(refused("pending events"))?,
        })
    }

    /// Makes a new processor the saved one. The first of a machine takes its TSC from its own state and
    /// returns its offset, the others are given that.
    pub fn restore(&self, state: &VcpuState, offset: Option<u64>) -> Result<u64, VcpuError> {
        let refused = |part| self.refused(part);
        let fd = &self.fd;
        self.check_xsave()?;
        let features = CpuId::from_entries(&state.cpuid)
            .map_err(|_| refused("feature list")(errno::Error::new(libc::E2BIG)))?;
        fd.set_cpuid2(&features).map_err(refused("feature list"))?;
        self.restore_tsc_frequency(state.tsc_khz)?;
        fd.set_mp_state(state.mp_state)
            .map_err(refused("run state"))?;
        fd.set_regs(&state.regs)
            .map_err(refused("general registers"))?;
        fd.set_sregs(&state.sregs)
            .map_err(refused("segment registers"))?;
        fd.set_xcrs(&state.xcrs)
            .map_err(refused("extended control registers"))?;
        // SAFETY: the kernel reads no more than the structure has, as `check_xsave` has found, and
        // nothing in this process enables more in between.
        unsafe { fd.set_xsave(&state.xsave) }.map_err(refused("extended state"))?;
        fd.set_debug_regs(&state.debug_regs)
            .map_err(refused("debug registers"))?;
        fd.set_lapic(&state.lapic)
            .map_err(refused("local interrupt controller"))?;
        let (tsc, others) = msr::split_tsc(&state.msrs);
        let offset = match offset {
            Some(offset) => {
                tsc::set_offset(fd, offset).map_err(refused("TSC offset"))?;
                offset
            }
            None => {
                self.write_msrs(tsc)?;
                tsc::offset(fd).map_err(refused("TSC offset"))?
            }
        };
        self.write_msrs(others)?;
        fd.set_vcpu_events(&state.events)
            .map_err(refused("pending events"))?;
        Ok(offset)
    }

    /// Reads all registers that this processor has. KVM stops a list at the first one that it does not
    /// give, and offers some that not every processor has: such a one is left out.
    fn read_msrs(&self, offered: &[u32]) -> Result<Vec<kvm_msr_entry>, VcpuError> {
        let mut asked: Vec<_> = msr::to_save(offered)
            .into_iter()
            .map(|index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        asked.sort_by_key(|entry| msr::rank(entry.index));
        let mut got = Vec::with_capacity(asked.len());
        let mut rest = asked.as_slice();
        while !rest.is_empty() {
            let mut list = Msrs::from_entries(rest).map_err(|_| self.too_many_msrs())?;
            let count = self
                .fd
                .get_msrs(&mut list)
                .map_err(self.refused("model-specific registers"))?;
            got.extend(list.as_slice().iter().take(count));
            rest = rest.get(count + 1..).unwrap_or_default();
        }
        Ok(got)
    }

    /// The guest counts time in its own TSC's units.
    fn restore_tsc_frequency(&self, khz: u32) -> Result<(), VcpuError> {
        let now = self
            .fd
            .get_tsc_khz()
            .map_err(self.refused("TSC frequency"))?;
        let tolerated = u64::from(khz) * TSC_TOLERANCE_PPM / 1_000_000;
        if u64::from(now.abs_diff(khz)) <= tolerated {
            return Ok(());
        }
        self.fd
            .set_tsc_khz(khz)
            .map_err(self.refused("TSC frequency"))
    }

    fn check_xsave(&self) -> Result<(), VcpuError> {
        if self.xsave_bytes > MAX_XSAVE_BYTES {
            return Err(VcpuError::LargeXsave {
                id: self.id,
                bytes: self.xsave_bytes,
            });
        }
        Ok(())
    }
}
