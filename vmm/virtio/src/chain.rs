// SPDX-License-Identifier: Apache-2.0
//! Descriptor chains as values: read from guest memory once, checked, then owned.
//!
//! Nothing here is looked up again in the descriptor table, so a guest that changes it afterwards
//! changes nothing. The guest memory that a chain points to is another matter: it may change at
//! any time, so whatever is decided upon is copied out first.

use std::fmt;

use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

/// A driver's access to guest memory that is not there.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A descriptor points outside the memory of the guest.
    #[error("cannot access {len} bytes of guest memory at {addr:#x}")]
    Access {
        /// Guest-physical address.
        addr: u64,
        /// Length of the access.
        len: usize,
        /// What guest memory says.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The buffer is shorter than what must go into or come out of it.
    #[error("buffer of {have} bytes where {want} are needed")]
    TooShort {
        /// Length of the buffer.
        have: usize,
        /// Length of the data.
        want: usize,
    },
}

/// Part of guest memory that one descriptor names. Not yet known to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address of the first byte.
    pub addr: GuestAddress,
    /// Length in bytes.
    pub len: usize,
}

/// One request of the driver: an owned list of segments, those the device reads before those it
/// writes. It is consumed by completing it, so nothing is completed twice.
#[derive(Debug)]
pub struct Chain {
    pub(crate) head: u16,
    pub(crate) segments: Vec<Segment>,
    readable: usize,
}

impl Chain {
    /// Reads a chain of at most `limit` descriptors into the recycled `segments`, which come back
    /// when the chain is malformed: longer than the queue, cut, looped, or with a readable descriptor
    /// after a writable one (virtio 1.2, section 2.7.4.2).
    pub(crate) fn parse(
        mut descriptors: DescriptorChain<&GuestMemoryMmap>,
        limit: u16,
        mut segments: Vec<Segment>,
    ) -> Result<Self, Vec<Segment>> {
        let head = descriptors.head_index();
        segments.clear();
        let mut readable = 0;
        loop {
            let Some(descriptor) = descriptors.next() else {
                return Err(segments);
            };
            let misplaced = !descriptor.is_write_only() && readable != segments.len();
            if segments.len() >= usize::from(limit) || misplaced {
                return Err(segments);
            }
            // The crate keeps the sum of the lengths below 4 GiB.
            segments.push(Segment {
                addr: descriptor.addr(),
                len: descriptor.len() as usize,
            });
            if !descriptor.is_write_only() {
                readable += 1;
            }
            if !descriptor.has_next() {
                return Ok(Self {
                    head,
                    segments,
                    readable,
                });
            }
        }
    }

    /// What the driver wrote for the device.
    pub fn readable<'a>(&'a self, memory: &'a GuestMemoryMmap) -> Span<'a> {
        Span::new(
            memory,
            self.segments.get(..self.readable).unwrap_or_default(),
        )
    }

    /// Where the driver wants its answer.
    pub fn writable<'a>(&'a self, memory: &'a GuestMemoryMmap) -> Span<'a> {
        Span::new(
            memory,
            self.segments.get(self.readable..).unwrap_or_default(),
        )
    }
}

/// A window of bytes over segments of guest memory.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    memory: &'a GuestMemoryMmap,
    segments: &'a [Segment],
    /// Bytes before the window.
    start: usize,
    /// Bytes in the window.
    len: usize,
}

impl<'a> Span<'a> {
    fn new(memory: &'a GuestMemoryMmap, segments: &'a [Segment]) -> Self {
        let len = segments.iter().map(|segment| segment.len).sum();
        Self {
            memory,
            segments,
            start: 0,
            len,
        }
    }

    /// The memory that the segments are in.
    pub fn memory(&self) -> &'a GuestMemoryMmap {
        self.memory
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `at` bytes and the rest; `None` when there are fewer.
    pub fn split_at(self, at: usize) -> Option<(Self, Self)> {
        let rest = self.len.checked_sub(at)?;
        Some((
            Self { len: at, ..self },
            Self {
                start: self.start + at,
                len: rest,
                ..self
            },
        ))
    }

    /// The segments of the window, first and last cut to it.
    pub fn pieces(self) -> impl Iterator<Item = Segment> + 'a {
        let mut skip = self.start;
        let mut left = self.len;
        self.segments.iter().filter_map(move |segment| {
            let skipped = skip.min(segment.len);
            skip -= skipped;
            let len = left.min(segment.len - skipped);
            left -= len;
            // An address that overflows becomes one that no guest memory has.
            let addr = segment
                .addr
                .checked_add(skipped as u64)
                .unwrap_or(GuestAddress(u64::MAX));
            (len > 0).then_some(Segment { addr, len })
        })
    }

    /// Copies the first bytes of the window out.
    pub fn read(self, mut data: &mut [u8]) -> Result<(), MemoryError> {
        self.check_length(data.len())?;
        for piece in self.pieces() {
            let (now, later) = data.split_at_mut(piece.len.min(data.len()));
            if now.is_empty() {
                break;
            }
            self.memory
                .read_slice(now, piece.addr)
                .map_err(|source| MemoryError::Access {
                    addr: piece.addr.0,
                    len: now.len(),
                    source,
                })?;
            data = later;
        }
        Ok(())
    }

    /// Copies `data` over the first bytes of the window.
    pub fn write(self, mut data: &[u8]) -> Result<(), MemoryError> {
        self.check_length(data.len())?;
        for piece in self.pieces() {
            let (now, later) = data.split_at(piece.len.min(data.len()));
            if now.is_empty() {
                break;
            }
            self.memory
                .write_slice(now, piece.addr)
                .map_err(|source| MemoryError::Access {
                    addr: piece.addr.0,
                    len: now.len(),
                    source,
                })?;
            data = later;
        }
        Ok(())
    }

    fn check_length(&self, want: usize) -> Result<(), MemoryError> {
        if want > self.len {
            return Err(MemoryError::TooShort {
                have: self.len,
                want,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of guest memory", self.len)
    }
}
