// SPDX-License-Identifier: Apache-2.0
//! Guest memory: anonymous, private, and untouched until the guest touches it.

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// The guest's memory. Clones are views of the same memory.
pub type GuestMemory = GuestMemoryMmap;

/// Why there is no memory for the guest.
#[derive(Debug, Error)]
#[error("{bytes} bytes of guest memory could not be mapped")]
pub struct MemoryError {
    bytes: u64,
    #[source]
    source: vm_memory::mmap::FromRangesError,
}

/// Maps memory for the given guest-physical ranges (start and length in bytes, ascending).
///
/// The mapping is `MAP_NORESERVE`: a guest's size costs nothing until it is used, and the
/// sandbox's cgroup is what limits it.
pub fn allocate(ranges: &[(u64, u64)]) -> Result<GuestMemory, MemoryError> {
    let regions: Vec<_> = ranges
        .iter()
        .map(|(start, len)| {
            let len = usize::try_from(*len).expect("a host that runs KVM here has 64 bits");
            (GuestAddress(*start), len)
        })
        .collect();
    GuestMemory::from_ranges(&regions).map_err(|source| MemoryError {
        bytes: ranges.iter().map(|(_, len)| len).sum(),
        source,
    })
}
