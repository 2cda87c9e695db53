// SPDX-License-Identifier: Apache-2.0
//! See the module.

use std::fs::File;

use super::disk::{AttachError, Disk, identify};
use super::request::{Command, Status, parse};
use super::state::DiskState;
use super::{BLOCK_BYTES, DEVICE_ID, MAX_DISCARD_SECTORS, QUEUE_SIZES, SEG_MAX, SIZE_MAX, feature};
use crate::device::{Device, Identity, Work, read_config_bytes};
use crate::queue::{QueueError, Request, Virtqueue};
use crate::state::{DeviceState, QueueState};

/// A slot for a disk.
#[derive(Debug)]
pub struct Block {
    slot: u8,
    pub(super) disk: Option<Disk>,
    /// The disk that a restored guest goes on with, until it is here.
    pub(super) awaited: Option<DiskState>,
    queue: Option<Virtqueue>,
}

impl Block {
    /// An empty slot, stopped. `slot` is its number in the serial.
    pub fn new(slot: u8) -> Self {
        Self {
            slot,
            disk: None,
            awaited: None,
            queue: None,
        }
    }

    /// Puts `file` into the slot. To be called in [`crate::MmioTransport::configure`], unless the
    /// device is not behind its registers yet. A slot that was restored with a disk takes only one
    /// of the same size and mode.
    pub fn attach(&mut self, file: File, read_only: bool) -> Result<(), AttachError> {
        if self.disk.is_some() {
            return Err(AttachError::Occupied { slot: self.slot });
        }
        let disk = Disk::new(self.slot, file, read_only)?;
        if let Some(awaited) = self.awaited {
            awaited.check(self.slot, &disk)?;
        }
        self.awaited = None;
        self.disk = Some(disk);
        Ok(())
    }

    /// Empties the slot and returns the file, if it has come. Nothing is in flight then or later; what the guest
    /// has not flushed is in the host's page cache. To be called in
    /// [`crate::MmioTransport::configure`].
    pub fn detach(&mut self) -> Option<File> {
        self.awaited = None;
        self.disk.take().map(Disk::into_file)
    }
}

impl Device for Block {
    fn identity(&self) -> Identity {
        let features = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::DISCARD
            | feature::WRITE_ZEROES;
        Identity {
            device_id: DEVICE_ID,
            features,
            queue_sizes: QUEUE_SIZES,
        }
    }

    /// struct virtio_blk_config (section 5.2.4). What is not named here belongs to features that
    /// are not offered.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let sectors = self.seen().map_or(0, |disk| disk.sectors);
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in config.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(0, &sectors.to_le_bytes());
        put(8, &SIZE_MAX.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &BLOCK_BYTES.to_le_bytes());
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &1u32.to_le_bytes()); // max_discard_seg
        put(44, &1u32.to_le_bytes()); // discard_sector_alignment
        put(48, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(52, &1u32.to_le_bytes()); // max_write_zeroes_seg
        put(56, &[1]); // write_zeroes_may_unmap
        read_config_bytes(&config, offset, data);
    }

    fn start(&mut self, queues: Vec<Virtqueue>, _features: u64) {
        self.queue = queues.into_iter().next();
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.queue.take().map(Virtqueue::stop).into_iter().collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Block(self.to_state())
    }

    fn notify(&mut self, _index: usize) -> Result<Work, QueueError> {
        let Self {
            slot,
            disk,
            awaited,
            queue,
        } = self;
        let empty = disk.is_none() && awaited.is_none();
        match queue {
            Some(queue) => queue.drain(|request| serve(*slot, disk.as_mut(), empty, request)),
            None => Ok(Work::Done),
        }
    }
}

/// Carries out one request and returns how many bytes the driver may look at. `empty`: there is
/// no disk because there is to be none.
fn serve(slot: u8, disk: Option<&mut Disk>, empty: bool, request: Request<'_>) -> u32 {
    let Some(parsed) = parse(request) else {
        return 0;
    };
    let status = match (parsed.command, disk) {
        (Err(status), _) => status,
        (Ok(command), Some(disk)) => disk.perform(&command),
        (Ok(Command::Identify { into }), None) => match identify(slot, into) {
            Ok(()) => Status::Ok,
            Err(_) => Status::IoError,
        },
        (Ok(Command::Flush), None) if empty => Status::Ok,
        (Ok(_), None) => Status::IoError,
    };
    match parsed.status.write(&[status as u8]) {
        // The status is the last byte, so all before it counts as written.
        Ok(()) => u32::try_from(request.writable.len()).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}
