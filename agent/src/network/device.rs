// SPDX-License-Identifier: Apache-2.0
//! From a slot of the machine to an interface of the kernel.
//!
//! The driver is there from the boot on, and bound to no device: an interface that nothing is attached to
//! would be seen by every container. A device is bound when its slot is wanted, which takes the kernel a
//! moment, where loading the driver would take it many.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cause::Cause;
use crate::guest::{ModuleError, modprobe};

/// virtio's bus in sysfs.
const BUS: &str = "/sys/bus/virtio";
/// The name under which the image has the driver.
const ALIAS: &str = "virtio-net";
/// `VIRTIO_ID_NET` as the bus shows it.
const NET: &str = "0x0001";

/// Loads the driver without having it bind what there is. A kernel without such a bus has no machine around
/// it, and nothing is loaded.
pub fn load() -> Result<(), ModuleError> {
    let probe = Path::new(BUS).join("drivers_autoprobe");
    let automatic = |on: &str| {
        if let Err(error) = fs::write(&probe, on) {
            tracing::warn!(%error, "network devices are seen before they are wanted");
        }
    };
    automatic("0");
    let loaded = modprobe(ALIAS);
    automatic("1");
    loaded
}

/// Binds the device of a slot, if it is not bound yet, and returns the number of its interface.
pub(super) fn bind(slot: u32) -> Result<u32, Cause> {
    let devices = devices(Path::new(BUS))?;
    let device = usize::try_from(slot)
        .ok()
        .and_then(|slot| devices.get(slot));
    let device = device.ok_or_else(|| Cause::new("the machine has no such device"))?;
    let net = device.join("net");
    if !net.exists() {
        let name = device.file_name().unwrap_or_default();
        let driver = Path::new(BUS).join("drivers/virtio_net/bind");
        fs::write(driver, name.as_encoded_bytes())?;
    }
    let interface = fs::read_dir(&net)?
        .next()
        .ok_or_else(|| Cause::new("it has no interface"))??;
    let number = fs::read_to_string(interface.path().join("ifindex"))?;
    number
        .trim()
        .parse()
        .map_err(|_| Cause::new("its interface has no number"))
}

/// The network devices in the order of their slots, which is that of their places in the machine.
fn devices(bus: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(bus.join("devices"))? {
        let path = fs::canonicalize(entry?.path())?;
        if fs::read_to_string(path.join("device"))?.trim() == NET {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_by_place_and_not_by_the_kernels_names() {
        let dir = tempfile::tempdir().unwrap();
        let bus = dir.path().join("bus");
        fs::create_dir_all(bus.join("devices")).unwrap();
        for (place, name, kind) in [
            ("LNRO0005:02", "virtio9", NET),
            ("LNRO0005:03", "virtio1", NET),
            ("LNRO0005:01", "virtio0", "0x0013"),
        ] {
            let device = dir.path().join(place).join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("device"), format!("{kind}\n")).unwrap();
            std::os::unix::fs::symlink(&device, bus.join("devices").join(name)).unwrap();
        }
        let found = devices(&bus).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["virtio9", "virtio1"]);
    }
}
