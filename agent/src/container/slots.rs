// SPDX-License-Identifier: Apache-2.0
//! Which block device a slot of the machine is. The host fills a slot after boot, so a disk may arrive a
//! moment after the call that names it; [`super::arrival`] waits for that.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::arrival::{self, ARRIVAL_TIMEOUT};
use crate::cause::Cause;

const BLOCK: &str = "/sys/block";

/// What the serial numbers of slots and the links in place of slots begin with; the number follows.
const SERIAL: &str = "cube-slot-";

/// Where the slots are.
#[derive(Clone, Debug)]
pub enum Slots {
    /// Names of the machine's virtio-blk devices whose serial number is `cube-slot-N`, by that number.
    Devices(BTreeMap<u32, OsString>),
    /// A directory of links `cube-slot-N`: outside of a machine, for tests.
    Directory(PathBuf),
}

/// A slot without a disk.
#[derive(Debug, Error)]
pub enum SlotError {
    /// The machine has no device of that serial number.
    #[error("block slot {slot} does not exist")]
    Missing {
        /// Its number.
        slot: u32,
    },
    /// Its size stayed zero.
    #[error("block slot {slot} ({}) has no disk after {} s", device.display(), ARRIVAL_TIMEOUT.as_secs())]
    Empty {
        /// Its number.
        slot: u32,
        /// The device.
        device: PathBuf,
    },
    /// sysfs, the kernel's log or the directory cannot be read.
    #[error("cannot look for block slot {slot}")]
    Read {
        /// Its number.
        slot: u32,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

impl Slots {
    /// Those of this machine. For once: each serial number is a request to the host, and the devices stay.
    pub fn of_machine() -> io::Result<Self> {
        Ok(Self::Devices(find(Path::new(BLOCK))?))
    }

    /// The device of a slot, once it has a disk.
    pub async fn device(&self, slot: u32) -> Result<PathBuf, SlotError> {
        let failed = |source: io::Error| SlotError::Read {
            slot,
            source: source.into(),
        };
        match self {
            Self::Directory(links) => {
                fs::canonicalize(links.join(format!("{SERIAL}{slot}"))).map_err(failed)
            }
            Self::Devices(names) => {
                let name = names.get(&slot).ok_or(SlotError::Missing { slot })?;
                let device = Path::new("/dev").join(name);
                let size = Path::new(BLOCK).join(name).join("size");
                match arrival::wait(&size).await.map_err(failed)? {
                    true => Ok(device),
                    false => Err(SlotError::Empty { slot, device }),
                }
            }
        }
    }
}

/// Names of the devices that are slots.
fn find(block: &Path) -> io::Result<BTreeMap<u32, OsString>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(block)? {
        let entry = entry?;
        // Other kinds of devices have no such file.
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        let number = serial.trim().strip_prefix(SERIAL);
        if let Some(slot) = number.and_then(|number| number.parse().ok()) {
            names.insert(slot, entry.file_name());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_whole_serial_number() {
        let block = tempfile::tempdir().unwrap();
        for (name, serial) in [
            ("vda", "cube-slot-1\n"),
            ("vdb", "cube-slot-11"),
            ("vdc", ""),
            ("vdd", "cube-slot-x"),
            ("vde", "a-cube-slot-2"),
        ] {
            fs::create_dir(block.path().join(name)).unwrap();
            fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(block.path().join("loop0")).unwrap();
        let names = find(block.path()).unwrap();
        assert_eq!(
            names,
            BTreeMap::from([(1, "vda".into()), (11, "vdb".into())])
        );
    }

    #[tokio::test]
    async fn a_slot_that_the_machine_does_not_have_is_missing() {
        let slots = Slots::Devices(BTreeMap::new());
        let error = slots.device(3).await.unwrap_err();
        assert_eq!(error.to_string(), "block slot 3 does not exist");
    }
}
