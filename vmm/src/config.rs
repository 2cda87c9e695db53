// SPDX-License-Identifier: Apache-2.0
//! What the runtime may ask of a machine, and the limits of it.
//!
//! [`BootConfig`] is what was asked, as it crosses the control socket; [`Shape`] and the
//! other checked values are what the VMM builds from. Devices are not configurable: every
//! machine has the same ones (see `machine`), so that one snapshot can serve every image.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most virtual processors of a machine: the contract of the runtime, and the size of the
/// processor tables that the firmware part writes.
pub const MAX_VCPUS: u8 = 8;

/// Least guest memory. Debian's 6.12 kernel with the agent's initramfs needs about 90 MiB to
/// reach user space; below this it dies in the middle of unpacking with no useful word.
pub const MIN_MEMORY_MIB: u32 = 128;

/// Most guest memory: 512 GiB fits the 40 physical address bits that every x86-64
/// virtualisation host has, with room for the devices.
pub const MAX_MEMORY_MIB: u32 = 512 * 1024;

/// Longest `cmdline` the runtime may add. Linux truncates silently at 2048 bytes
/// (`COMMAND_LINE_SIZE`); the rest is the VMM's own part.
pub const MAX_EXTRA_CMDLINE: usize = 1536;

/// Block slots of every machine.
pub const BLOCK_SLOTS: u8 = 8;

/// Network slots of every machine: interfaces without a carrier until they are given a tap. More than
/// one is for clients that attach a sandbox to several networks.
pub const NET_SLOTS: u8 = 4;

/// What the runtime asks for at boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`].
    pub memory_mib: u32,
    /// Added to the VMM's own kernel command line, separated by a space.
    pub cmdline: String,
    /// The user the VMM becomes before the guest runs. Never 0.
    pub uid: u32,
    /// The group the VMM becomes before the guest runs. Never 0.
    pub gid: u32,
}

/// What the runtime asks for at a restore. The machine itself is as it was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreConfig {
    /// The user the VMM becomes before the guest runs. Never 0.
    pub uid: u32,
    /// The group the VMM becomes before the guest runs. Never 0.
    pub gid: u32,
    /// Whether this run is to tell which pages a start touches: memory is read page by page, none is at
    /// hand before it is asked for, and the start is slow.
    pub record: bool,
    /// The disks that its guest goes on with, each in the slot where it was saved, in ascending order.
    pub disks: Vec<DiskConfig>,
}

/// A disk that is in its slot before a restored guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The slot, 0 to 7.
    pub slot: u8,
    /// Whether the guest's writes are refused.
    pub read_only: bool,
}

/// What the checks of a configuration can say.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Two disks for one slot, or not in the slots' order.
    #[error("the disks of a machine were not named once each, in the order of their slots")]
    Disks,
    /// Too few or too many processors.
    #[error("a machine of {asked} virtual processors was asked for, 1 to {MAX_VCPUS} are possible")]
    Vcpus {
        /// The number asked for.
        asked: u8,
    },
    /// Too little or too much memory.
    #[error(
        "a machine with {asked_mib} MiB of memory was asked for, \
         {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB are possible"
    )]
    Memory {
        /// The MiB asked for.
        asked_mib: u32,
    },
    /// The added kernel command line does not fit.
    #[error("the added kernel command line has {len} bytes, at most {MAX_EXTRA_CMDLINE} fit")]
    CmdlineTooLong {
        /// Its length.
        len: usize,
    },
    /// The added kernel command line has bytes that the kernel's parser takes for something else.
    #[error(
        "the added kernel command line has the byte {byte:#04x} at {at}, only printable ASCII is possible"
    )]
    CmdlineByte {
        /// The byte.
        byte: u8,
        /// Its position.
        at: usize,
    },
    /// The VMM was asked to stay root.
    #[error("the machine was asked to run as uid {uid}, gid {gid}; it never runs as root")]
    Root {
        /// The user asked for.
        uid: u32,
        /// The group asked for.
        gid: u32,
    },
    /// A network slot that no machine has.
    #[error("network slot {asked} was named, the machine has slots 0 to {}", NET_SLOTS - 1)]
    NetSlot {
        /// The slot named.
        asked: u8,
    },
    /// A slot that no machine has.
    #[error("block slot {asked} was named, the machine has slots 0 to {}", BLOCK_SLOTS - 1)]
    Slot {
        /// The slot named.
        asked: u8,
    },
}

/// The size of a machine, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    vcpus: u8,
    memory_mib: u32,
}

impl Shape {
    /// Checks a number of processors and an amount of memory.
    pub fn new(vcpus: u8, memory_mib: u32) -> Result<Self, ConfigError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(ConfigError::Vcpus { asked: vcpus });
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
            return Err(ConfigError::Memory {
                asked_mib: memory_mib,
            });
        }
        Ok(Self { vcpus, memory_mib })
    }

    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub fn vcpus(self) -> u8 {
        self.vcpus
    }

    /// Guest memory in MiB.
    pub fn memory_mib(self) -> u32 {
        self.memory_mib
    }

    /// Guest memory in bytes.
    pub fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

/// One of the machine's block slots, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// Checks a slot number.
    pub fn new(number: u8) -> Result<Self, ConfigError> {
        if number >= BLOCK_SLOTS {
            return Err(ConfigError::Slot { asked: number });
        }
        Ok(Self(number))
    }

    /// The number, below [`BLOCK_SLOTS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "block slot {}", self.0)
    }
}

/// One of the machine's network slots, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetSlot(u8);

impl NetSlot {
    /// Checks a slot number.
    pub fn new(number: u8) -> Result<Self, ConfigError> {
        if number >= NET_SLOTS {
            return Err(ConfigError::NetSlot { asked: number });
        }
        Ok(Self(number))
    }

    /// The number, below [`NET_SLOTS`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NetSlot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "network slot {}", self.0)
    }
}

impl BootConfig {
    /// Checks every field and gives the machine's shape.
    pub fn check(&self) -> Result<Shape, ConfigError> {
        check_user(self.uid, self.gid)?;
        check_cmdline(&self.cmdline)?;
        Shape::new(self.vcpus, self.memory_mib)
    }
}

impl RestoreConfig {
    /// Checks every field.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_user(self.uid, self.gid)?;
        for disk in &self.disks {
            Slot::new(disk.slot)?;
        }
        match self.disks.is_sorted_by_key(|disk| disk.slot)
            && self
                .disks
                .windows(2)
                .all(|pair| pair[0].slot != pair[1].slot)
        {
            true => Ok(()),
            false => Err(ConfigError::Disks),
        }
    }
}

fn check_user(uid: u32, gid: u32) -> Result<(), ConfigError> {
    if uid == 0 || gid == 0 {
        return Err(ConfigError::Root { uid, gid });
    }
    Ok(())
}

fn check_cmdline(extra: &str) -> Result<(), ConfigError> {
    if extra.len() > MAX_EXTRA_CMDLINE {
        return Err(ConfigError::CmdlineTooLong { len: extra.len() });
    }
    let printable = |byte: u8| (b' '..=b'~').contains(&byte);
    match extra
        .bytes()
        .enumerate()
        .find(|(_, byte)| !printable(*byte))
    {
        Some((at, byte)) => Err(ConfigError::CmdlineByte { byte, at }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> BootConfig {
        BootConfig {
            vcpus: 2,
            memory_mib: 2048,
            cmdline: String::new(),
            uid: 65534,
            gid: 65534,
        }
    }

    #[test]
    fn a_good_config_gives_its_shape() {
        let shape = config().check().unwrap();
        assert_eq!(shape.vcpus(), 2);
        assert_eq!(shape.memory_bytes(), 2 << 30);
    }

    #[test]
    fn each_limit_is_refused_with_its_own_error() {
        let check = |change: fn(&mut BootConfig), expect: ConfigError| {
            let mut bad = config();
            change(&mut bad);
            assert_eq!(bad.check(), Err(expect));
        };
        check(|c| c.vcpus = 0, ConfigError::Vcpus { asked: 0 });
        check(|c| c.vcpus = 9, ConfigError::Vcpus { asked: 9 });
        check(
            |c| c.memory_mib = MIN_MEMORY_MIB - 1,
            ConfigError::Memory { asked_mib: 127 },
        );
        check(
            |c| c.memory_mib = u32::MAX,
            ConfigError::Memory {
                asked_mib: u32::MAX,
            },
        );
        check(|c| c.uid = 0, ConfigError::Root { uid: 0, gid: 65534 });
        check(|c| c.gid = 0, ConfigError::Root { uid: 65534, gid: 0 });
        check(
            |c| c.cmdline = "a\nb".into(),
            ConfigError::CmdlineByte { byte: b'\n', at: 1 },
        );
        check(
            |c| c.cmdline = "x".repeat(MAX_EXTRA_CMDLINE + 1),
            ConfigError::CmdlineTooLong {
                len: MAX_EXTRA_CMDLINE + 1,
            },
        );
    }

    #[test]
    fn slots_end_at_eight() {
        assert_eq!(Slot::new(7).unwrap().index(), 7);
        assert_eq!(Slot::new(8), Err(ConfigError::Slot { asked: 8 }));
    }

    #[test]
    fn network_slots_end_at_four() {
        assert_eq!(NetSlot::new(3).unwrap().index(), 3);
        assert_eq!(NetSlot::new(4), Err(ConfigError::NetSlot { asked: 4 }));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"vcpus":1,"memory_mib":256,"cmdline":"","uid":1,"gid":1,"tap":"x"}"#;
        assert!(serde_json::from_str::<BootConfig>(text).is_err());
    }
}
