// SPDX-License-Identifier: Apache-2.0
//! Guest memory: private to its machine, and untouched until the guest touches it. A booted machine
//! starts from nothing, a restored one from a file that all its siblings share.

// UNSAFETY: gives the kernel advice about ranges of the guest's mappings.
#![allow(unsafe_code, reason = "madvise(2) takes addresses")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use libc::{MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_RANDOM};
use thiserror::Error;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    GuestRegionMmap, MmapRegion,
};

/// The guest's memory. Clones are views of the same memory.
pub type GuestMemory = GuestMemoryMmap;

/// Why there is no memory for the guest.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// No address space, or overlapping ranges.
    #[error("{bytes} bytes of guest memory could not be mapped")]
    Allocate {
        /// How many were asked for.
        bytes: u64,
        /// Why.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// The memory file.
    #[error("the memory file could not be examined")]
    Examine(#[source] io::Error),
    /// Accesses behind the end of a file end the process.
    #[error("the memory file has {found} bytes, the machine has {expected}")]
    Size {
        /// Its size.
        found: u64,
        /// The size of the machine's memory.
        expected: u64,
    },
    /// A part of the file could not be mapped.
    #[error("{bytes} bytes at {offset:#x} of the memory file could not be mapped")]
    Map {
        /// Where in the file.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Why.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The ranges do not make a memory.
    #[error("the memory file could not be laid out")]
    Layout(#[source] vm_memory::GuestRegionCollectionError),
}

/// Maps memory for the given guest-physical ranges (start and length in bytes, ascending).
///
/// The mapping is `MAP_NORESERVE`: a guest's size costs nothing until it is used, and the
/// sandbox's cgroup is what limits it.
pub fn allocate(ranges: &[(u64, u64)]) -> Result<GuestMemory, MemoryError> {
    let regions: Vec<_> = ranges
        .iter()
        .map(|(start, len)| (GuestAddress(*start), size(*len)))
        .collect();
    GuestMemory::from_ranges(&regions).map_err(|source| MemoryError::Allocate {
        bytes: ranges.iter().map(|(_, len)| len).sum(),
        source,
    })
}

/// Maps `file` as the memory of the given guest-physical ranges, one behind the other.
///
/// The mapping is private: what the guest writes is copied page by page, the file stays as it is, and
/// pages that were not written are shared by all machines of the file through the page cache. It costs
/// the same for every size.
pub fn map(file: OwnedFd, ranges: &[(u64, u64)]) -> Result<GuestMemory, MemoryError> {
    let file = Arc::new(File::from(file));
    let found = file.metadata().map_err(MemoryError::Examine)?.len();
    let expected = ranges.iter().map(|(_, len)| len).sum();
    if found != expected {
        return Err(MemoryError::Size { found, expected });
    }
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, len) in ranges {
        let at = FileOffset::from_arc(Arc::clone(&file), offset);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let mapping =
            MmapRegion::build(Some(at), size(*len), protection, flags).map_err(|source| {
                MemoryError::Map {
                    offset,
                    bytes: *len,
                    source,
                }
            })?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(*start));
        regions.push(region.expect("the layout ends below the end of the address space"));
        offset += len;
    }
    GuestMemory::from_regions(regions).map_err(MemoryError::Layout)
}

/// What the kernel is advised about guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Map the pages now, as the file has them (Linux 5.14).
    PopulateRead,
    /// Copy the pages now, ready to be written (Linux 5.14).
    PopulateWrite,
    /// Read nothing from the file but what is asked for.
    Random,
}

/// Why advice was not taken. It costs time later, and nothing else.
#[derive(Debug, Error)]
pub enum AdviseError {
    /// The range is not in the guest's memory.
    #[error("{bytes} bytes at {start:#x} are not in the guest's memory")]
    Range {
        /// Guest-physical start.
        start: u64,
        /// Length.
        bytes: usize,
        /// Why.
        #[source]
        source: GuestMemoryError,
    },
    /// madvise(2).
    #[error("{bytes} bytes of guest memory at {start:#x} did not take the advice {advice:?}")]
    Refused {
        /// Which advice.
        advice: Advice,
        /// Guest-physical start.
        start: u64,
        /// Length.
        bytes: usize,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Advises the kernel about whole pages of guest memory: `start` and `bytes` are multiples of the page
/// size, and the range does not cross a gap.
pub fn advise(
    memory: &GuestMemory,
    start: u64,
    bytes: usize,
    advice: Advice,
) -> Result<(), AdviseError> {
    let range = |source| AdviseError::Range {
        start,
        bytes,
        source,
    };
    let slice = memory
        .get_slice(GuestAddress(start), bytes)
        .map_err(range)?;
    let number = match advice {
        Advice::PopulateRead => MADV_POPULATE_READ,
        Advice::PopulateWrite => MADV_POPULATE_WRITE,
        Advice::Random => MADV_RANDOM,
    };
    let address = slice.ptr_guard_mut();
    // SAFETY: the slice is `bytes` of a live mapping, which `memory` keeps alive. None of these
    // changes what a page holds.
    let result = unsafe { libc::madvise(address.as_ptr().cast(), bytes, number) };
    if result == 0 {
        return Ok(());
    }
    Err(AdviseError::Refused {
        advice,
        start,
        bytes,
        source: io::Error::last_os_error(),
    })
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a host that runs KVM here has 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::Bytes;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn ranges_lie_behind_each_other_in_the_file() {
        let mut content = vec![1; 0x2000];
        content.extend([2; 0x1000]);
        let ranges = [(0, 0x2000), (0x1_0000, 0x1000)];
        let memory = map(file(&content).into(), &ranges).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1fff)).unwrap(), 1);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1_0000)).unwrap(), 2);
        assert!(memory.read_obj::<u8>(GuestAddress(0x2000)).is_err());
    }

    #[test]
    fn what_one_machine_writes_no_other_sees() {
        let file = file(&[7; 0x1000]);
        let map = || map(file.try_clone().unwrap().into(), &[(0, 0x1000)]).unwrap();
        let (one, other) = (map(), map());
        one.write_obj(8u8, GuestAddress(0)).unwrap();
        assert_eq!(other.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
        assert_eq!(map().read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
    }

    #[test]
    fn a_file_of_another_size_is_refused() {
        for bytes in [0xfff, 0x1001] {
            let error = map(file(&vec![0; bytes]).into(), &[(0, 0x1000)]).unwrap_err();
            assert!(matches!(
                error,
                MemoryError::Size {
                    expected: 0x1000,
                    ..
                }
            ));
        }
    }

    #[test]
    fn pages_are_made_ready_without_changing_them() {
        let memory = map(file(&[7; 0x4000]).into(), &[(0, 0x4000)]).unwrap();
        advise(&memory, 0, 0x2000, Advice::PopulateRead).unwrap();
        advise(&memory, 0x1000, 0x2000, Advice::PopulateWrite).unwrap();
        assert_eq!(
            memory.read_obj::<[u8; 32]>(GuestAddress(0x1fe0)).unwrap(),
            [7; 32]
        );
        let beyond = advise(&memory, 0x3000, 0x2000, Advice::PopulateRead);
        assert!(matches!(beyond, Err(AdviseError::Range { .. })));
    }
}
