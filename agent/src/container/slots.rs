// SPDX-License-Identifier: Apache-2.0
//! Which block device a slot of the machine is. The host fills a slot after boot, so a disk may arrive a
//! moment after the call that names it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::time::sleep;

use crate::cause::Cause;

/// How long a disk may take to appear. The interrupt that announces it is a matter of microseconds; the rest
/// is for a host that is short of processors.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks.
const ARRIVAL_POLL: Duration = Duration::from_millis(1);

/// Where the slots are.
#[derive(Clone, Debug)]
pub enum Slots {
    /// virtio-blk devices whose serial number is `cube-slot-N`, as the machine has them.
    Serial,
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
    /// sysfs or the directory cannot be read.
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
    /// The device of a slot, once it has a disk.
    pub async fn device(&self, slot: u32) -> Result<PathBuf, SlotError> {
        let failed = |source: std::io::Error| SlotError::Read {
            slot,
            source: source.into(),
        };
        let serial = format!("cube-slot-{slot}");
        match self {
            Self::Directory(links) => fs::canonicalize(links.join(&serial)).map_err(failed),
            Self::Serial => {
                let block = Path::new("/sys/block");
                let name = find(block, &serial)
                    .map_err(failed)?
                    .ok_or(SlotError::Missing { slot })?;
                let device = Path::new("/dev").join(&name);
                let size = block.join(name).join("size");
                let deadline = Instant::now() + ARRIVAL_TIMEOUT;
                while fs::read_to_string(&size).map_err(failed)?.trim() == "0" {
                    if Instant::now() >= deadline {
                        return Err(SlotError::Empty { slot, device });
                    }
                    sleep(ARRIVAL_POLL).await;
                }
                Ok(device)
            }
        }
    }
}

/// The name of the device with a serial number.
fn find(block: &Path, serial: &str) -> std::io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(block)? {
        let entry = entry?;
        // Other kinds of devices have no such file.
        let found = fs::read_to_string(entry.path().join("serial"));
        if found.is_ok_and(|found| found.trim() == serial) {
            return Ok(Some(entry.file_name().into()));
        }
    }
    Ok(None)
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
        ] {
            fs::create_dir(block.path().join(name)).unwrap();
            fs::write(block.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(block.path().join("loop0")).unwrap();
        let name = |serial| find(block.path(), serial).unwrap();
        assert_eq!(name("cube-slot-1"), Some("vda".into()));
        assert_eq!(name("cube-slot-11"), Some("vdb".into()));
        assert_eq!(name("cube-slot-2"), None);
    }
}
