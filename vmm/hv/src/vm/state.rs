// SPDX-License-Identifier: Apache-2.0
//! What belongs to the machine and to no processor, as data, both ways: the interrupt controllers that
//! all processors share, and the clock.
//!
//! A restore happens when all processors are restored and none has run:
//! * the interrupt controllers after the processors, because the IOAPIC delivers what it holds to their
//!   local APICs, whose own restore would erase it; before any device is connected, because a device may
//!   raise an interrupt that a later restore of the IOAPIC would erase;
//! * the clock after the TSCs that it is computed from, and before the first entry into the guest, which
//!   publishes it to the guest (KVM API, section 4.29).
//!
//! The guest's monotonic time goes on where it was saved: no timer of the guest sees the time in between.
//! So `KVM_CLOCK_REALTIME`, which would add that time, is not set. The wall clock is set by whoever
//! claims the guest.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
};
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno;

use super::{Vm, VmError};

/// The chips of `KVM_CREATE_IRQCHIP` that have a state of their own.
const CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];

/// The saved state of a machine without its processors, memory and devices.
#[derive(Debug, Serialize, Deserialize)]
pub struct VmState {
    irqchips: [kvm_irqchip; 3],
    clock_ns: u64,
}

impl Vm {
    /// The state of a machine whose processors stand still.
    pub fn save(&self) -> Result<VmState, VmError> {
        let mut irqchips = [kvm_irqchip::default(); 3];
        for (chip, id) in irqchips.iter_mut().zip(CHIPS) {
            chip.chip_id = id;
            self.fd
                .get_irqchip(chip)
                .map_err(refused("interrupt controllers"))?;
        }
        let clock = self.fd.get_clock().map_err(refused("clock"))?;
        Ok(VmState {
            irqchips,
            clock_ns: clock.clock,
        })
    }

    /// Gives a machine with restored processors the rest of its state.
    pub fn restore(&self, state: &VmState) -> Result<(), VmError> {
        for chip in &state.irqchips {
            self.fd
                .set_irqchip(chip)
                .map_err(refused("interrupt controllers"))?;
        }
        let clock = kvm_clock_data {
            clock: state.clock_ns,
            ..Default::default()
        };
        self.fd.set_clock(&clock).map_err(refused("clock"))
    }
}

fn refused(part: &'static str) -> impl FnOnce(errno::Error) -> VmError {
    move |source| VmError::State { part, source }
}
