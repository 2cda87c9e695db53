// SPDX-License-Identifier: Apache-2.0
//! `working_set.bin`: which pages of memory a start touches, so that the next one finds them at hand.
//!
//! Pages that are only read and pages that are written are kept apart: the former are mapped from the
//! page cache for a tenth of a microsecond each, the latter are copied for fifteen times that. It is
//! advice: a missing or refused one costs speed and nothing else.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::envelope::{self, Kind, ReadError, WriteError};

/// Two numbers of up to five bytes each for a run; 1.3 million runs of one page are 10 GiB of memory
/// with a hole after each page, and no start touches that.
const KIND: Kind = Kind {
    name: "working set",
    tag: *b"wset",
    version: 1,
    max_bytes: 1 << 20,
};

/// Pages of 4 KiB that follow each other, counted from the beginning of `memory.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first page.
    pub first: u32,
    /// How many; never 0.
    pub pages: u32,
}

/// The working set of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet {
    /// Pages that are read, ascending.
    pub read: Vec<Run>,
    /// Pages that are written, ascending.
    pub written: Vec<Run>,
}

impl WorkingSet {
    /// Writes the file.
    pub fn write(&self, out: &mut impl Write) -> Result<(), WriteError> {
        envelope::write(out, KIND, self)
    }

    /// Reads the file. What it says about pages is as the writer left it: whoever uses it checks it
    /// against the memory that is there.
    pub fn read(input: &mut impl Read) -> Result<Self, ReadError> {
        envelope::read(input, KIND)
    }

    /// How many pages there are in some runs.
    pub fn pages(runs: &[Run]) -> u64 {
        runs.iter().map(|run| u64::from(run.pages)).sum()
    }
}

/// Appends a page to ascending runs, joining it to the last one where it follows.
pub fn push(runs: &mut Vec<Run>, page: u32) {
    match runs.last_mut() {
        Some(last) if last.first.checked_add(last.pages) == Some(page) => last.pages += 1,
        _ => runs.push(Run {
            first: page,
            pages: 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_make_one_run() {
        let mut runs = Vec::new();
        for page in [3, 4, 5, 9, 11, 12] {
            push(&mut runs, page);
        }
        let expected = [(3, 3), (9, 1), (11, 2)].map(|(first, pages)| Run { first, pages });
        assert_eq!(runs, expected);
        assert_eq!(WorkingSet::pages(&runs), 6);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            read in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50),
            written in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50),
        ) {
            let runs = |pairs: Vec<(u32, u32)>| {
                pairs.into_iter().map(|(first, pages)| Run { first, pages }).collect()
            };
            let set = WorkingSet { read: runs(read), written: runs(written) };
            let mut file = Vec::new();
            set.write(&mut file).unwrap();
            prop_assert_eq!(WorkingSet::read(&mut &*file).unwrap(), set);
        }
    }
}
