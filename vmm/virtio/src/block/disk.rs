// SPDX-License-Identifier: Apache-2.0
//! The file behind a slot.
//!
//! Data passes through a buffer of the host: `preadv` straight into guest memory would need raw
//! pointers, which this crate does not have, and a file's own position, which `read` would need,
//! is shared by everyone who holds the descriptor. The copy stays in the cache; the system calls
//! are one per 64 KiB, however the guest scatters its pages.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl};
use rustix::io::Errno;

use super::request::{Command, Status};
use super::{BOUNCE_BYTES, ERROR_LOG_LINES, ID_BYTES, SECTOR_BYTES};
use crate::chain::{MemoryError, Span};

/// A file cannot be the disk of a slot.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is a disk already.
    #[error("slot {slot} already has a disk; detach it first")]
    Occupied {
        /// The slot.
        slot: u8,
    },
    /// The guest of a restored slot goes on with the disk that it had.
    #[error(
        "slot {slot} was saved with a disk of {want} sectors (read-only: {want_read_only}), this \
         one has {have} (read-only: {have_read_only}); detach the old one first"
    )]
    Different {
        /// The slot.
        slot: u8,
        /// Sectors that the guest has seen.
        want: u64,
        /// Whether they were read-only.
        want_read_only: bool,
        /// Sectors of the file.
        have: u64,
        /// Whether it is to be read-only.
        have_read_only: bool,
    },
    /// The descriptor does not tell what it is.
    #[error("cannot inspect the file for slot {slot}")]
    Inspect {
        /// The slot.
        slot: u8,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not a regular file or block device.
    #[error("the file for slot {slot} is neither a regular file nor a block device")]
    NotADisk {
        /// The slot.
        slot: u8,
    },
    /// Read-only disks need a descriptor that cannot write, others one that can do both.
    #[error(
        "the file for slot {slot} is open with flags {flags:#o}; a read-only disk needs O_RDONLY, \
         a writable one O_RDWR, and neither takes O_APPEND, O_DIRECT or O_PATH"
    )]
    OpenMode {
        /// The slot.
        slot: u8,
        /// The open flags.
        flags: u32,
    },
}

/// An attached disk.
#[derive(Debug)]
pub(super) struct Disk {
    slot: u8,
    file: File,
    read_only: bool,
    bytes: u64,
    bounce: Box<[u8]>,
    error_log_lines: u8,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("the range is not on the disk")]
    Range,
    #[error("the disk is read-only")]
    ReadOnly,
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    File(#[from] io::Error),
}

impl Disk {
    pub fn new(slot: u8, mut file: File, read_only: bool) -> Result<Self, AttachError> {
        let inspect = |source| AttachError::Inspect { slot, source };
        let flags = fcntl_getfl(&file).map_err(|error| inspect(error.into()))?;
        let wanted = if read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let unfit = OFlags::APPEND | OFlags::DIRECT | OFlags::PATH;
        if flags & OFlags::ACCMODE != wanted || flags.intersects(unfit) {
            return Err(AttachError::OpenMode {
                slot,
                flags: flags.bits(),
            });
        }
        let kind = file.metadata().map_err(inspect)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(AttachError::NotADisk { slot });
        }
        // The one way to the size that files and block devices share.
        let size = file.seek(SeekFrom::End(0)).map_err(inspect)?;
        Ok(Self {
            slot,
            file,
            read_only,
            bytes: size - size % SECTOR_BYTES,
            bounce: vec![0; BOUNCE_BYTES].into(),
            error_log_lines: ERROR_LOG_LINES,
        })
    }

    /// Capacity in sectors.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR_BYTES
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub fn into_file(self) -> File {
        self.file
    }

    /// Carries out `command`.
    pub fn perform(&mut self, command: &Command<'_>) -> Status {
        let result = match command {
            Command::Read { offset, into } => self.read(*offset, *into),
            Command::Write { offset, from } => self.write(*offset, *from),
            Command::Flush => self.flush(),
            Command::Identify { into } => identify(self.slot, *into).map_err(Into::into),
            Command::Discard { range } => self.zero(range, FallocateFlags::PUNCH_HOLE),
            Command::WriteZeroes { range, unmap: true } => {
                self.zero(range, FallocateFlags::PUNCH_HOLE)
            }
            Command::WriteZeroes {
                range,
                unmap: false,
            } => self.zero(range, FallocateFlags::ZERO_RANGE),
        };
        match result {
            Ok(()) => Status::Ok,
            Err(CommandError::File(error))
                if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) =>
            {
                Status::Unsupported
            }
            Err(error) => {
                if let CommandError::File(error) = &error {
                    self.log(command, error);
                }
                Status::IoError
            }
        }
    }

    fn read(&mut self, mut offset: u64, into: Span<'_>) -> Result<(), CommandError> {
        self.check(offset, into.len() as u64)?;
        let mut rest = into;
        while let Some((now, later)) = rest.split_at(rest.len().min(BOUNCE_BYTES))
            && let Some(bounce) = self.bounce.get_mut(..now.len())
            && !now.is_empty()
        {
            self.file.read_exact_at(bounce, offset)?;
            now.write(bounce)?;
            offset += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, mut offset: u64, from: Span<'_>) -> Result<(), CommandError> {
        self.check_writable()?;
        self.check(offset, from.len() as u64)?;
        let mut rest = from;
        while let Some((now, later)) = rest.split_at(rest.len().min(BOUNCE_BYTES))
            && let Some(bounce) = self.bounce.get_mut(..now.len())
            && !now.is_empty()
        {
            now.read(bounce)?;
            self.file.write_all_at(bounce, offset)?;
            offset += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), CommandError> {
        if !self.read_only {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn zero(&self, range: &Range<u64>, how: FallocateFlags) -> Result<(), CommandError> {
        self.check_writable()?;
        let len = range.end.saturating_sub(range.start);
        self.check(range.start, len)?;
        if len > 0 {
            fallocate(
                &self.file,
                how | FallocateFlags::KEEP_SIZE,
                range.start,
                len,
            )
            .map_err(io::Error::from)?;
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), CommandError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(CommandError::Range),
        }
    }

    fn check_writable(&self) -> Result<(), CommandError> {
        if self.read_only {
            Err(CommandError::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// What the guest did wrong is its own affair; what the host cannot do, the operator's.
    fn log(&mut self, command: &Command<'_>, error: &io::Error) {
        if let Some(left) = self.error_log_lines.checked_sub(1) {
            self.error_log_lines = left;
            let slot = self.slot;
            tracing::warn!(slot, ?command, %error, "a disk request failed");
        }
    }
}

/// Answers with the serial number, which does not need a disk.
pub(super) fn identify(slot: u8, into: Span<'_>) -> Result<(), MemoryError> {
    let mut id = [0; ID_BYTES];
    for (to, from) in id.iter_mut().zip(format!("cube-slot-{slot}").bytes()) {
        *to = from;
    }
    into.write(id.get(..into.len()).unwrap_or(&id))
}
