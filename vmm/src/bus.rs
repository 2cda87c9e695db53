// SPDX-License-Identifier: Apache-2.0
//! Which device an access belongs to. One bus for ports and one for memory addresses, fixed
//! before the first instruction.
//!
//! Total by construction: any address, any length. What no device claims reads as all ones
//! and swallows writes, like an empty slot of a PC.

use std::fmt;
use std::ops::Range;

use cube_virtio::MmioTransport;
use thiserror::Error;

use crate::io_thread::SharedDevice;

/// Something with registers. Called by any vCPU thread, so each device locks for itself.
pub(crate) trait Registers: Send + Sync {
    /// The guest reads `data.len()` bytes at `offset` of the device's range.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset` of the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

impl Registers for SharedDevice {
    fn read(&self, offset: u64, data: &mut [u8]) {
        MmioTransport::read(self, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        MmioTransport::write(self, offset, data);
    }
}

/// Two devices were given one address: a mistake in the machine's layout.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the devices at {:#x}..{:#x} and {:#x}..{:#x} overlap", first.start, first.end, second.start, second.end)]
pub struct Overlap {
    first: Range<u64>,
    second: Range<u64>,
}

/// Devices by address.
#[derive(Default)]
pub(crate) struct Bus {
    /// Ascending, disjoint.
    devices: Vec<(Range<u64>, Box<dyn Registers>)>,
}

impl Bus {
    /// Puts a device at a range of addresses.
    pub fn insert(
        &mut self,
        start: u64,
        length: u64,
        device: Box<dyn Registers>,
    ) -> Result<(), Overlap> {
        let range = start..start.saturating_add(length);
        let at = self
            .devices
            .partition_point(|(other, _)| other.start < range.start);
        let before = at
            .checked_sub(1)
            .and_then(|before| self.devices.get(before));
        for (other, _) in before.into_iter().chain(self.devices.get(at)) {
            if other.start < range.end && range.start < other.end {
                return Err(Overlap {
                    first: other.clone(),
                    second: range,
                });
            }
        }
        self.devices.insert(at, (range, device));
        Ok(())
    }

    /// Carries out a read.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Carries out a write.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    /// The device that the whole access lies in.
    fn find(&self, address: u64, length: usize) -> Option<(u64, &dyn Registers)> {
        let at = self
            .devices
            .partition_point(|(range, _)| range.start <= address);
        let (range, device) = self.devices.get(at.checked_sub(1)?)?;
        let end = address.checked_add(u64::try_from(length).ok()?)?;
        let inside = address < range.end && end <= range.end;
        inside.then(|| (address - range.start, &**device))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.devices.iter().map(|(range, _)| range);
        out.debug_list().entries(ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    /// Answers with its name and remembers what was written.
    #[derive(Default)]
    struct Recorder {
        name: u8,
        written: Mutex<Vec<(u64, Vec<u8>)>>,
    }

    impl Registers for Recorder {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data.fill(self.name);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.written.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    impl Registers for Arc<Recorder> {
        fn read(&self, offset: u64, data: &mut [u8]) {
            (**self).read(offset, data);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            (**self).write(offset, data);
        }
    }

    fn recorder(name: u8) -> Box<Recorder> {
        Box::new(Recorder {
            name,
            ..Default::default()
        })
    }

    fn bus() -> Bus {
        let mut bus = Bus::default();
        bus.insert(0x20, 8, recorder(2)).unwrap();
        bus.insert(0x10, 8, recorder(1)).unwrap();
        bus
    }

    #[test]
    fn accesses_go_to_the_device_they_lie_in() {
        let check = |address, length, expect: &[u8]| {
            let mut data = vec![0; length];
            bus().read(address, &mut data);
            assert_eq!(data, expect, "{address:#x}");
        };
        check(0x0f, 1, &[0xff]);
        check(0x10, 1, &[1]);
        check(0x14, 4, &[1, 1, 1, 1]);
        check(0x15, 4, &[0xff; 4]); // reaches beyond the device
        check(0x18, 1, &[0xff]);
        check(0x27, 1, &[2]);
        check(u64::MAX, 8, &[0xff; 8]);
    }

    #[test]
    fn writes_carry_the_offset() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::default();
        bus.insert(0x100, 16, Box::new(Arc::clone(&device)))
            .unwrap();
        bus.write(0x10c, &[1, 2, 3, 4]);
        bus.write(0x200, &[9]);
        assert_eq!(*device.written.lock().unwrap(), [(0xc, vec![1, 2, 3, 4])]);
    }

    #[test]
    fn overlapping_devices_are_refused() {
        for (start, length) in [(0x10, 1), (0x0f, 2), (0x17, 20), (0x00, 0x100)] {
            assert!(
                bus().insert(start, length, recorder(3)).is_err(),
                "{start:#x}"
            );
        }
        bus().insert(0x18, 8, recorder(3)).unwrap();
    }

    proptest! {
        #[test]
        fn any_access_is_answered(address in any::<u64>(), length in 0usize..5000) {
            let mut data = vec![0; length];
            bus().read(address, &mut data);
            bus().write(address, &data);
        }
    }
}
