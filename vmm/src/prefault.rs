// SPDX-License-Identifier: Apache-2.0
//! Has the pages of a working set at hand before the guest asks for them, on a thread beside the
//! restore.
//!
//! What fails costs time and nothing else, so it is logged and forgotten: the machine does not wait
//! for this thread and does not ask how it fared.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use cube_hv::GuestMemory;
use cube_hv::memory::{Populate, PopulateError, populate};
use cube_snapshot::envelope::ReadError;
use cube_snapshot::working_set::{Run, WorkingSet};
use thiserror::Error;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::pagemap::PAGE;

/// A few calls deep, with small buffers.
const STACK_BYTES: usize = 64 << 10;

#[derive(Debug, Error)]
enum PrefaultError {
    #[error("the working set is unfit")]
    WorkingSet(#[from] ReadError),
    #[error("pages of the working set could not be had")]
    Populate(#[from] PopulateError),
}

/// Starts the thread.
pub(crate) fn start(file: OwnedFd, memory: &GuestMemory) -> io::Result<()> {
    let memory = memory.clone();
    let thread = thread::Builder::new()
        .name("prefault".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if let Err(error) = prefault(file, &memory) {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error, "the start will be slower");
            }
        })?;
    // It ends by itself, and nobody waits for it.
    drop(thread);
    Ok(())
}

/// Pages that are written first: copying takes longest, and a vCPU that needs one waits for it all.
fn prefault(file: OwnedFd, memory: &GuestMemory) -> Result<(), PrefaultError> {
    let set = WorkingSet::read(&mut File::from(file))?;
    for (runs, how) in [(&set.written, Populate::Write), (&set.read, Populate::Read)] {
        for run in runs {
            for (start, bytes) in places(memory, *run) {
                populate(memory, start, bytes, how)?;
            }
        }
    }
    Ok(())
}

/// Where the pages of a run are in the guest: one range, or two if it crosses a gap.
fn places(memory: &GuestMemory, run: Run) -> Vec<(u64, usize)> {
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
        prefault(working_set.into(), &memory).unwrap();

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
