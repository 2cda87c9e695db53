// SPDX-License-Identifier: Apache-2.0
//! Which of a machine's block slots are taken.

use std::sync::{Arc, Mutex, PoisonError};

use cube_vmm::config::BLOCK_SLOTS;

/// All slots of one machine. Clones are of the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Arc<Mutex<[bool; BLOCK_SLOTS as usize]>>);

/// One taken slot. Dropped empty it is free again; dropped with a disk in it, it stays taken for ever,
/// because a slot whose disk could not be taken out must not be given to anybody else.
#[derive(Debug)]
pub(crate) struct SlotLease {
    slots: Slots,
    number: u8,
    occupied: bool,
}

impl Slots {
    /// Takes this slot, which a restored machine has its disk in; `None` if it is taken, or none.
    pub(crate) fn take_occupied(&self, number: u8) -> Option<SlotLease> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken
            .get_mut(usize::from(number))
            .filter(|taken| !**taken)?;
        *free = true;
        Some(SlotLease {
            slots: self.clone(),
            number,
            occupied: true,
        })
    }

    /// Takes the first free slot; `None` if all are taken.
    pub(crate) fn take(&self) -> Option<SlotLease> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..BLOCK_SLOTS)
            .zip(taken.iter_mut())
            .find(|(_, taken)| !**taken);
        free.map(|(number, taken)| {
            *taken = true;
            SlotLease {
                slots: self.clone(),
                number,
                occupied: false,
            }
        })
    }
}

impl SlotLease {
    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// Notes that a disk is put in (before it is, so that no end of this future leaves it unsaid).
    pub(crate) fn occupy(&mut self) {
        self.occupied = true;
    }

    /// Notes that the disk is out again, or never came in.
    pub(crate) fn vacate(&mut self) {
        self.occupied = false;
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        let mut taken = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = taken.get_mut(usize::from(self.number)) {
            *taken = self.occupied;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_slots_and_no_more() {
        let slots = Slots::default();
        let leases: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        let numbers: Vec<u8> = leases.iter().map(SlotLease::number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
        drop(leases);
        assert_eq!(slots.take().unwrap().number(), 0);
    }

    #[test]
    fn an_empty_slot_is_free_again_and_one_with_a_disk_is_not() {
        let slots = Slots::default();
        let (mut first, mut second) = (slots.take().unwrap(), slots.take().unwrap());
        first.occupy();
        second.occupy();
        first.vacate();
        drop((first, second));
        let third = slots.take().unwrap();
        assert_eq!(third.number(), 0);
        assert_eq!(slots.take().unwrap().number(), 2);
    }
}
