// SPDX-License-Identifier: Apache-2.0
//! The registers by which a guest switches itself off or resets itself.
//!
//! Off is ACPI's sleep control register with the S5 value. Reset is ACPI's reset register, or
//! the keyboard controller's pulse that a kernel falls back to when it dies before it has read
//! the ACPI tables. The machine has no reset: both mean its end.

use crate::acpi::POWER_OFF;
use crate::bus::Registers;
use crate::end::{End, Ending};

/// What a guest writes into the reset register, as the FADT says.
pub(crate) const RESET_VALUE: u8 = 1;

/// `SLP_EN` and the place of `SLP_TYP` (ACPI 6.5, section 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u32 = 2;
const SLEEP_TYPE_MASK: u8 = 7;

/// The keyboard controller's "pulse output line 0": the reset line of a PC.
const PULSE_RESET: u8 = 0xfe;

/// ACPI's sleep control register, and its sleep status register on the next port.
#[derive(Debug)]
pub(crate) struct Sleep(pub Ending);

/// ACPI's reset register.
#[derive(Debug)]
pub(crate) struct Reset(pub Ending);

/// The command port of a keyboard controller of which only the reset line exists.
#[derive(Debug)]
pub(crate) struct Keyboard(pub Ending);

impl Registers for Sleep {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, [value, ..]) = (offset, data)
            && value & SLEEP_ENABLE != 0
            && value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == POWER_OFF
        {
            self.0.announce(End::PoweredOff);
        }
    }
}

impl Registers for Reset {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first() == Some(&RESET_VALUE) {
            self.0.announce(End::Reset);
        }
    }
}

impl Registers for Keyboard {
    /// The input buffer is always empty, so that a dying kernel does not wait for it.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first() == Some(&PULSE_RESET) {
            self.0.announce(End::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitReason;

    fn after(write: impl FnOnce(Ending)) -> Option<ExitReason> {
        let ending = Ending::new().unwrap();
        write(ending.clone());
        ending.take().map(|end| end.reason())
    }

    #[test]
    fn only_the_off_state_with_the_enable_bit_switches_off() {
        let off = POWER_OFF << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
        let sleep = |offset, data: &'static [u8]| after(|end| Sleep(end).write(offset, data));
        assert_eq!(
            after(|end| Sleep(end).write(0, &[off])),
            Some(ExitReason::Stopped)
        );
        assert_eq!(after(|end| Sleep(end).write(1, &[off])), None);
        assert_eq!(sleep(0, &[POWER_OFF << SLEEP_TYPE_SHIFT]), None);
        assert_eq!(sleep(0, &[SLEEP_ENABLE]), None);
        assert_eq!(sleep(0, &[]), None);
    }

    #[test]
    fn both_reset_lines_end_the_machine() {
        let reset = Some(ExitReason::GuestReset);
        assert_eq!(after(|end| Reset(end).write(0, &[RESET_VALUE])), reset);
        assert_eq!(after(|end| Reset(end).write(0, &[0])), None);
        assert_eq!(after(|end| Keyboard(end).write(0, &[PULSE_RESET])), reset);
        assert_eq!(after(|end| Keyboard(end).write(0, &[0xd1])), None);
    }
}
