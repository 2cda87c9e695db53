// SPDX-License-Identifier: Apache-2.0
//! The devices: the differentiated system description table (section 5.2.11.1).

use super::aml;
use super::fadt::POWER_OFF;
use super::table::table;
use crate::layout;

const REVISION: u8 = 2;

/// The register window and interrupt of one virtio device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The device's number, from 0.
    pub index: u8,
    /// Guest-physical address.
    pub address: u64,
    /// Its interrupt.
    pub gsi: u32,
}

impl Window {
    /// The window of the device with this number.
    pub fn virtio(index: u8) -> Self {
        Self {
            index,
            address: layout::VIRTIO + u64::from(index) * layout::VIRTIO_WINDOW,
            gsi: layout::VIRTIO_GSI + u32::from(index),
        }
    }
}

/// The table: how to switch off, the serial console, the virtio devices.
pub(super) fn dsdt(windows: &[Window]) -> Vec<u8> {
    let mut devices = serial();
    for window in windows {
        devices.extend(virtio(*window));
    }
    let body = [off_state(), aml::scope(b"\\_SB_", &devices)].concat();
    table(b"DSDT", REVISION, &body)
}

/// `_S5`: the value for the sleep control register (section 7.4.2).
fn off_state() -> Vec<u8> {
    let elements = [POWER_OFF, POWER_OFF, 0, 0].map(aml::byte);
    aml::name(b"_S5_", &aml::package(&elements))
}

fn serial() -> Vec<u8> {
    let length = u8::try_from(layout::SERIAL_PORTS).expect("an 8250 has eight ports");
    let resources = aml::resources(&[
        aml::ports(layout::SERIAL_PORT, length),
        aml::interrupt(layout::SERIAL_GSI),
    ]);
    described(*b"COM1", "PNP0501", 0, &resources)
}

/// Linux's virtio-mmio driver binds to this hardware id (drivers/virtio/virtio_mmio.c).
fn virtio(window: Window) -> Vec<u8> {
    let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit & 0xf)];
    let name = [b'V', b'R', hex(window.index >> 4), hex(window.index)];
    let address = u32::try_from(window.address).expect("the windows lie below 4 GiB");
    let length = u32::try_from(layout::VIRTIO_WINDOW).expect("a window is one page");
    let resources = aml::resources(&[aml::memory(address, length), aml::interrupt(window.gsi)]);
    described(name, "LNRO0005", window.index, &resources)
}

fn described(name: [u8; 4], hardware: &str, unique: u8, resources: &[u8]) -> Vec<u8> {
    let objects = [
        aml::name(b"_HID", &aml::string(hardware)),
        aml::name(b"_UID", &aml::byte(unique)),
        aml::name(b"_CRS", resources),
    ];
    aml::device(name, &objects.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_each_other_with_their_own_interrupts() {
        assert_eq!(
            Window::virtio(10),
            Window {
                index: 10,
                address: 0xd000_a000,
                gsi: 15
            }
        );
    }

    #[test]
    fn every_window_is_a_device_of_its_own() {
        let windows: Vec<_> = (0..14).map(Window::virtio).collect();
        let dsdt = dsdt(&windows);
        let count = |what: &[u8]| dsdt.windows(what.len()).filter(|at| *at == what).count();
        assert_eq!(count(b"LNRO0005\0"), 14);
        assert_eq!(count(b"VR0A"), 1);
        assert_eq!(count(b"PNP0501\0"), 1);
    }
}
