// SPDX-License-Identifier: Apache-2.0
//! The working set of a restore: fetching it, and having it told.
//!
//! Fetching goes in two steps. A thread beside the restore has the host's kernel map the pages: those
//! that will be written as copies, the others as the file has them. When the processors are there and
//! have not run, what was fetched is mapped into the guest, where KVM can do that; otherwise each first
//! touch still leaves the guest, and finds the page at hand.
//!
//! What fails costs time and nothing else, so it is logged and forgotten.
//!
//! A run that is to tell the working set starts with a memory file of which nothing is in the page
//! cache and reads it page by page. Then the pages that this process has mapped are those that were
//! asked for: the kernel maps the neighbours of a page only if they are cached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use cube_hv::memory::{Advice, AdviseError, advise};
use cube_hv::{GuestMemory, Vcpu, VcpuError, Vm};
use cube_snapshot::envelope::ReadError;
use cube_snapshot::working_set::{Run, WorkingSet};
use thiserror::Error;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::end::chain;
use crate::pagemap::PAGE;

/// A few calls deep, with small buffers.
const STACK_BYTES: usize = 64 << 10;

#[derive(Debug, Error)]
enum PrefaultError {
    #[error("the working set is unfit")]
    WorkingSet(#[from] ReadError),
    #[error("pages of the working set could not be had")]
    Fetch(#[from] AdviseError),
    #[error("pages of the working set could not be mapped into the guest")]
    Map(#[from] VcpuError),
}

/// Guest-physical ranges of whole pages.
type Places = Vec<(u64, usize)>;

/// The working set on its way.
pub(crate) struct Prefault {
    thread: JoinHandle<Result<Places, PrefaultError>>,
}

impl Prefault {
    /// Begins to fetch the pages that the file names.
    pub fn start(file: OwnedFd, memory: &GuestMemory) -> io::Result<Self> {
        let memory = memory.clone();
        let thread = thread::Builder::new()
            .name("prefault".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || fetch(file, &memory))?;
        Ok(Self { thread })
    }

    /// Maps what was fetched into the guest, through a processor that has not run.
    pub fn finish(self, vm: &Vm, vcpu: &Vcpu) {
        if !vm.can_pre_fault() {
            // The thread goes on and ends by itself; fetched pages are of use also when they come late.
            return;
        }
        // A panic has ended the whole process through the panic hook.
        let Ok(fetched) = self.thread.join() else {
            return;
        };
        let mapped = fetched.and_then(|places| {
            for (start, bytes) in places {
                vcpu.pre_fault(start, bytes as u64)?;
            }
            Ok(())
        });
        if let Err(error) = mapped {
            tracing::warn!(error = chain(&error).join(": "), "the start will be slower");
        }
    }
}

/// Pages that are written first: copying takes longest.
fn fetch(file: OwnedFd, memory: &GuestMemory) -> Result<Places, PrefaultError> {
    let set = WorkingSet::read(&mut File::from(file))?;
    let mut all = Vec::new();
    let kinds = [
        (&set.written, Advice::PopulateWrite),
        (&set.read, Advice::PopulateRead),
    ];
    for (runs, advice) in kinds {
        for run in runs {
            for (start, bytes) in places(memory, *run) {
                advise(memory, start, bytes, advice)?;
                all.push((start, bytes));
            }
        }
    }
    Ok(all)
}

/// Has nothing of a memory file in the page cache. What is not on the disk yet would stay.
pub(crate) fn forget(file: impl AsFd) -> io::Result<()> {
    rustix::fs::fsync(&file)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Has memory read page by page.
pub(crate) fn read_singly(memory: &GuestMemory) -> Result<(), AdviseError> {
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        let bytes = usize::try_from(region.len()).unwrap_or(usize::MAX);
        advise(memory, start, bytes, Advice::Random)?;
    }
    Ok(())
}

/// Where the pages of a run are in the guest: one range, or two if it crosses a gap.
fn places(memory: &GuestMemory, run: Run) -> Places {
    let (mut from, to) = (
        u64::from(run.first) * PAGE,
        (u64::from(run.first) + u64::from(run.pages)) * PAGE,
    );
    let mut places = Vec::new();
    let mut region_from = 0;
    for region in memory.iter() {
        let region_to = region_from + region.len();
        let end = to.min(region_to);
        if from < end
            && let Ok(bytes) = usize::try_from(end - from)
        {
            let start = region.start_addr().raw_value() + (from - region_from);
            places.push((start, bytes));
            from = end;
        }
        region_from = region_to;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pagemap::{Page, Pagemap};
    use std::io::{Seek, Write};

    const RANGES: [(u64, u64); 2] = [(0, 0x4000), (0x1_0000_0000, 0x4000)];

    #[test]
    fn a_run_across_the_gap_is_two_places() {
        let memory = cube_hv::memory::allocate(&RANGES).unwrap();
        let check = |first, pages, expected: &[(u64, usize)]| {
            assert_eq!(places(&memory, Run { first, pages }), expected);
        };
        check(1, 2, &[(0x1000, 0x2000)]);
        check(3, 2, &[(0x3000, 0x1000), (0x1_0000_0000, 0x1000)]);
        check(6, 100, &[(0x1_0000_2000, 0x2000)]);
        check(u32::MAX, u32::MAX, &[]);
        check(1, 0, &[]);
    }

    #[test]
    fn the_pages_are_there_afterwards() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 0x8000]).unwrap();
        let memory = cube_hv::memory::map(file.into(), &RANGES).unwrap();
        let mut working_set = tempfile::tempfile().unwrap();
        let run = |first, pages| vec![Run { first, pages }];
        let set = WorkingSet {
            read: run(0, 2),
            written: run(3, 2),
        };
        set.write(&mut working_set).unwrap();
        working_set.rewind().unwrap();
        let fetched = fetch(working_set.into(), &memory).unwrap();
        assert_eq!(
            fetched,
            [(0x3000, 0x1000), (0x1_0000_0000, 0x1000), (0, 0x2000)]
        );

        let pagemap = Pagemap::new(File::open("/proc/self/pagemap").unwrap().into());
        let mut pages = Vec::new();
        let mut note = |page, run: std::ops::Range<u64>| {
            (run.start..run.end).for_each(|number| pages.push((page, number)));
            Ok(())
        };
        pagemap.walk(&memory, &mut note).unwrap();
        let expected = [
            (Page::Shared, 0),
            (Page::Shared, 1),
            (Page::Own, 3),
            (Page::Own, 4),
        ];
        assert!(
            expected.iter().all(|page| pages.contains(page)),
            "{pages:?}"
        );
    }
}
