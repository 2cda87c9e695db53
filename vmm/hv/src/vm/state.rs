// SPDX-License-Identifier: Apache-2.0
//! What belongs to the machine and to no processor, as data, both ways: the interrupt controllers that
//! all processors share, and the clock.
//!
//! The interrupt controllers are restored after the processors, because the IOAPIC delivers what it
//! holds to their local APICs, whose own restore would erase it; and before any device is connected,
//! because a device may raise an interrupt that a later restore of the IOAPIC would erase.
//!
//! The clock is read when the processors have come to a stand, since it runs on without them, and set
//! when they are about to run: after the TSCs that it is computed from, and before the first entry into
//! the guest, which publishes it to the guest (KVM API, section 4.29). So the guest's monotonic time
//! goes on where it stopped, and no timer of the guest sees the time in between: `KVM_CLOCK_REALTIME`,
//! which would add that time, is not set. The wall clock is set by whoever claims the guest.

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

/// The interrupt controllers of a saved machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct IrqchipState([kvm_irqchip; 3]);

/// The guest's monotonic time, in nanoseconds since its machine was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState(u64);

impl Vm {
    /// The interrupt controllers; the processors stand.
    pub fn save_irqchips(&self) -> Result<IrqchipState, VmError> {
        let mut irqchips = [kvm_irqchip::default(); 3];
        for (chip, id) in irqchips.iter_mut().zip(CHIPS) {
            chip.chip_id = id;
            self.fd
                .get_irqchip(chip)
                .map_err(refused("interrupt controllers"))?;
        }
        Ok(IrqchipState(irqchips))
    }

    /// Restores the interrupt controllers of a machine with restored processors.
    pub fn restore_irqchips(&self, state: &IrqchipState) -> Result<(), VmError> {
        for chip in &state.0 {
            self.fd
                .set_irqchip(chip)
                .map_err(refused("interrupt controllers"))?;
        }
        Ok(())
    }

    /// The clock now.
    pub fn save_clock(&self) -> Result<ClockState, VmError> {
        let clock = self.fd.get_clock().map_err(refused("clock"))?;
        Ok(ClockState(clock.clock))
    }

    /// Lets the clock go on from there.
    pub fn restore_clock(&self, state: ClockState) -> Result<(), VmError> {
        let clock = kvm_clock_data {
            clock: state.0,
            ..Default::default()
        };
        self.fd.set_clock(&clock).map_err(refused("clock"))
    }
}

fn refused(part: &'static str) -> impl FnOnce(errno::Error) -> VmError {
    move |source| VmError::State { part, source }
}
