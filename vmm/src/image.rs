// SPDX-License-Identifier: Apache-2.0
//! Boot images (kernel, initramfs) as files that were handed over: read by position, because
//! others may hold the same open file, and copied into guest memory in pieces.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use cube_hv::GuestMemory;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Bytes per copied piece: no more than a control message takes, so that the process's heap,
/// which never shrinks, does not grow for it.
const PIECE_BYTES: usize = crate::control::MAX_PACKET;

const PAGE_BYTES: usize = 4096;

/// Why an image cannot be read or placed.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Its size is unknown.
    #[error("the size of the file cannot be told")]
    Size(#[source] io::Error),
    /// It is no regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// A read failed.
    #[error("{bytes} bytes at {offset} cannot be read")]
    Read {
        /// Where.
        offset: u64,
        /// How many.
        bytes: usize,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The guest's memory ends before the image does.
    #[error("{bytes} bytes do not fit into the guest's memory at {address:#x}")]
    Place {
        /// Guest-physical address.
        address: u64,
        /// How many.
        bytes: usize,
        /// What the memory says.
        #[source]
        source: GuestMemoryError,
    },
}

/// One boot image.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    length: u64,
}

impl Image {
    /// Takes an open file.
    pub fn new(file: OwnedFd) -> Result<Self, ImageError> {
        let file = File::from(file);
        let metadata = file.metadata().map_err(ImageError::Size)?;
        if !metadata.is_file() {
            return Err(ImageError::NotAFile);
        }
        let length = metadata.len();
        Ok(Self { file, length })
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from the position `offset`.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), ImageError> {
        let bytes = buffer.len();
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| ImageError::Read {
                offset,
                bytes,
                source,
            })
    }

    /// Copies `length` bytes from the position `offset` on into fresh guest memory. Pages of
    /// zeroes stay untouched: that is what they are already, and so they cost nothing.
    pub fn copy(
        &self,
        offset: u64,
        length: u64,
        memory: &GuestMemory,
        address: u64,
    ) -> Result<(), ImageError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut done = 0;
        while let left @ 1.. = length.saturating_sub(done) {
            let bytes = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let piece = &mut buffer[..bytes];
            self.read(piece, offset + done)?;
            for page in piece.chunks(PAGE_BYTES) {
                place(memory, address + done, page)?;
                done += page.len() as u64;
            }
        }
        Ok(())
    }
}

fn place(memory: &GuestMemory, address: u64, page: &[u8]) -> Result<(), ImageError> {
    if page.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    memory
        .write_slice(page, GuestAddress(address))
        .map_err(|source| ImageError::Place {
            address,
            bytes: page.len(),
            source,
        })
}
