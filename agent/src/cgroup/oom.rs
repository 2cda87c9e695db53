// SPDX-License-Identifier: Apache-2.0
//! The kernel's out-of-memory killer at work in a container: `oom_kill` of memory.events, which counts every
//! killed process in the cgroup and below it, whoever's memory ran out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{CgroupError, pairs, read};
use crate::sys;

/// How often it struck so far.
pub fn kills(cgroup: &Path) -> Result<u64, CgroupError> {
    let text = read(&cgroup.join("memory.events"))?;
    Ok(pairs(&text)
        .find(|(key, _)| *key == "oom_kill")
        .and_then(|(_, count)| count.parse().ok())
        .unwrap_or(0))
}

/// Wakes up whenever memory.events changes.
#[derive(Debug)]
pub struct OomWatch {
    events: AsyncFd<OwnedFd>,
}

impl OomWatch {
    /// For one cgroup.
    pub fn new(cgroup: &Path) -> Result<Self, CgroupError> {
        let path = cgroup.join("memory.events");
        File::open(&path)
            // The kernel tells a poll for priority data of a change since the last read.
            .and_then(|file| sys::watch(file.into(), Interest::PRIORITY))
            .map(|events| Self { events })
            .map_err(|source| CgroupError::Read {
                path,
                source: source.into(),
            })
    }

    /// The next change. The caller looks at the count itself: other events change the file too.
    pub async fn changed(&self) -> io::Result<()> {
        let mut guard = self.events.ready(Interest::PRIORITY).await?;
        // Reading is what arms the next notification.
        let mut buffer = [0; 512];
        let read = rustix::io::pread(guard.get_inner(), &mut buffer, 0);
        guard.clear_ready();
        Ok(read.map(|_| ())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_one_key_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("memory.events");
        std::fs::write(&events, "low 0\nmax 7\noom 3\noom_kill 2\n").unwrap();
        assert_eq!(kills(dir.path()).unwrap(), 2);
        std::fs::remove_file(&events).unwrap();
        assert!(kills(dir.path()).is_err());
    }
}
