// SPDX-License-Identifier: Apache-2.0
//! Which pages of guest memory this process has, and which of them are its own.
//!
//! The kernel says it in `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst), one word a
//! page. The runtime opens the file, since this process has no `/proc`. What is read about addresses
//! needs no privilege; where pages lie in the host's memory is not shown and not wanted.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use cube_hv::GuestMemory;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

/// The size of a page here and in the guest.
pub(crate) const PAGE: u64 = PAGE_BYTES as u64;
/// The same, of something in this process's memory.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Bytes for each page in the file.
const ENTRY: usize = 8;
/// Entries read at once: what 32 MiB of memory have.
const BATCH: u64 = 8192;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// A page of a file (or shared): not a private copy.
const OF_FILE: u64 = 1 << 61;

/// What a page of guest memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Never touched, or as the file has it and forgotten since.
    Absent,
    /// Touched, and as the memory file has it.
    Shared,
    /// This machine's own: written, or not from a file.
    Own,
}

/// An open pagemap of this process.
pub(crate) struct Pagemap {
    file: File,
}

/// Pages that are alike and follow each other, counted from the beginning of the memory file.
pub(crate) type Pages = Range<u64>;

impl Pagemap {
    /// Takes the open file.
    pub fn new(file: OwnedFd) -> Self {
        Self { file: file.into() }
    }

    /// Calls `visit` for each run of pages of a kind, in ascending order; runs do not cross regions.
    pub fn walk(
        &self,
        memory: &GuestMemory,
        mut visit: impl FnMut(Page, Pages) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut first = 0;
        for region in memory.iter() {
            let host = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(io::Error::other)?;
            let pages = region.len() / PAGE;
            self.walk_region(host as u64 / PAGE, pages, |page, run| {
                visit(page, first + run.start..first + run.end)
            })?;
            first += pages;
        }
        Ok(())
    }

    fn walk_region(
        &self,
        host_page: u64,
        pages: u64,
        mut visit: impl FnMut(Page, Pages) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; ENTRY * usize::try_from(BATCH.min(pages)).unwrap_or(0)];
        let mut run = (Page::Absent, 0..0);
        let mut next = 0;
        while next < pages {
            let count = BATCH.min(pages - next);
            let bytes = usize::try_from(count).map_err(io::Error::other)? * ENTRY;
            let batch = buffer.get_mut(..bytes).unwrap_or_default();
            let offset = (host_page + next) * ENTRY as u64;
            self.file.read_exact_at(batch, offset)?;
            for (entry, number) in batch.as_chunks::<ENTRY>().0.iter().zip(next..) {
                let page = kind(u64::from_ne_bytes(*entry));
                if page == run.0 {
                    run.1.end = number + 1;
                } else {
                    finish(run, &mut visit)?;
                    run = (page, number..number + 1);
                }
            }
            next += count;
        }
        finish(run, visit)
    }
}

fn finish(
    (page, run): (Page, Pages),
    mut visit: impl FnMut(Page, Pages) -> io::Result<()>,
) -> io::Result<()> {
    if run.is_empty() {
        return Ok(());
    }
    visit(page, run)
}

fn kind(entry: u64) -> Page {
    if entry & SWAPPED != 0 {
        // Only private pages are swapped; a file's are dropped and read again.
        Page::Own
    } else if entry & PRESENT == 0 {
        Page::Absent
    } else if entry & OF_FILE != 0 {
        Page::Shared
    } else {
        Page::Own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress};

    fn walk(memory: &GuestMemory) -> Vec<(Page, Pages)> {
        let pagemap = Pagemap::new(File::open("/proc/self/pagemap").unwrap().into());
        let mut runs = Vec::new();
        let push = |page, run| {
            runs.push((page, run));
            Ok(())
        };
        pagemap.walk(memory, push).unwrap();
        runs
    }

    #[test]
    fn touched_and_written_pages_are_told_apart() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 16 * PAGE_BYTES]).unwrap();
        let ranges = [(0, 8 * PAGE), (1 << 32, 8 * PAGE)];
        let memory = cube_hv::memory::map(file.into(), &ranges).unwrap();
        assert_eq!(walk(&memory), [(Page::Absent, 0..8), (Page::Absent, 8..16)]);
        memory.write_obj(2u8, GuestAddress(3 * PAGE)).unwrap();
        memory
            .write_obj(2u8, GuestAddress((1 << 32) + PAGE))
            .unwrap();
        let own: Vec<_> = walk(&memory)
            .into_iter()
            .filter(|(page, _)| *page == Page::Own)
            .map(|(_, run)| run)
            .collect();
        assert_eq!(own, [3..4, 9..10]);
        // The kernel maps neighbours of a page that is read, so there may be more.
        memory.read_obj::<u8>(GuestAddress(6 * PAGE)).unwrap();
        let shared = walk(&memory)
            .into_iter()
            .any(|(page, run)| page == Page::Shared && run.contains(&6));
        assert!(shared);
    }

    #[test]
    fn memory_of_no_file_is_all_own() {
        let memory = cube_hv::memory::allocate(&[(0, 20_000 * PAGE)]).unwrap();
        for page in [0, 1, 9000] {
            memory.write_obj(1u8, GuestAddress(page * PAGE)).unwrap();
        }
        let own: Vec<_> = walk(&memory)
            .into_iter()
            .filter(|(page, _)| *page == Page::Own)
            .collect();
        assert_eq!(own.first(), Some(&(Page::Own, 0..2)));
        assert!(own.iter().any(|(_, run)| run.contains(&9000)));
    }
}
