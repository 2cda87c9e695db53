// SPDX-License-Identifier: Apache-2.0
//! A saved machine as data: `state.bin`. Its memory is a file of its own.
//!
//! The parts are saved and restored where they live: processors and interrupt controllers in
//! `cube_hv`, devices in `cube_virtio`, the console in `serial`. This is their sum and its form on
//! disk. A change of any part is a change of [`KIND`]'s version.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::fd::OwnedFd;

use cube_hv::{ClockState, IrqchipState, VcpuState};
use cube_snapshot::envelope::{self, Kind, ReadError, WriteError};
use cube_virtio::TransportState;
use serde::{Deserialize, Serialize};

use crate::serial::ConsoleState;

/// The file. Eight processors have 90 KiB of state, the devices 2.
const KIND: Kind = Kind {
    name: "machine state",
    tag: *b"mach",
    version: 1,
    max_bytes: 1 << 20,
};

/// Everything of a machine but its memory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MachineState {
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// The processors, by number.
    pub processors: Vec<VcpuState>,
    /// The interrupt controllers that all processors share.
    pub irqchips: IrqchipState,
    /// When the processors came to a stand, by the guest's clock.
    pub clock: ClockState,
    /// The virtio devices, by number.
    pub devices: Vec<TransportState>,
    /// The serial console.
    pub console: ConsoleState,
}

impl MachineState {
    /// Writes the file.
    pub fn write(&self, file: OwnedFd) -> Result<(), WriteError> {
        envelope::write(&mut BufWriter::new(File::from(file)), KIND, self)
    }

    /// Reads the file.
    pub fn read(file: OwnedFd) -> Result<Self, ReadError> {
        envelope::read(&mut BufReader::new(File::from(file)), KIND)
    }
}
