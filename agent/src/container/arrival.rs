// SPDX-License-Identifier: Apache-2.0
//! The arrival of a disk in an empty slot: its size is no longer zero.
//!
//! The kernel notices a new size by an interrupt, a little after the host has filled the slot. It sends no
//! uevent when a size was zero before (block/genhd.c, `set_capacity_and_notify`); what it does is to say so in
//! its log, and a log can be waited for. A disk that came before the wait costs one look and no wait.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::{Errno, read};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout};

use crate::sys;

/// How long a disk may take to appear. The interrupt that announces it is a matter of microseconds; the rest
/// is for a host that is short of processors.
pub const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks although the log is silent: kernels since 6.14 say no more than ten of these lines in five seconds.
const LOOK_ANYWAY: Duration = Duration::from_millis(100);

const LOG: &str = "/dev/kmsg";

/// Longest record that a read of the log gives (`PRINTK_MESSAGE_MAX` of the kernel).
const MAX_RECORD: usize = 2048;

/// Waits until the file `size` of a block device says that there is something; `false`: in vain.
pub async fn wait(size: &Path) -> io::Result<bool> {
    if has_disk(size)? {
        return Ok(true);
    }
    // Opened before the next look, so that nothing is said in between.
    let log = Log::open()?;
    let deadline = Instant::now() + ARRIVAL_TIMEOUT;
    while Instant::now() < deadline {
        if has_disk(size)? {
            return Ok(true);
        }
        // Silence is no error: the next look tells.
        if let Ok(said) = timeout(LOOK_ANYWAY, log.said_something()).await {
            said?;
        }
    }
    Ok(false)
}

fn has_disk(size: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(size)?.trim() != "0")
}

/// The kernel's log, from now on.
struct Log(AsyncFd<OwnedFd>);

impl Log {
    fn open() -> io::Result<Self> {
        let mut log = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(LOG)?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(sys::watch(log.into(), Interest::READABLE)?))
    }

    /// Waits for the next record and skips what there is.
    async fn said_something(&self) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        let mut record = [0; MAX_RECORD];
        loop {
            match read(guard.get_inner(), &mut record) {
                // EPIPE: records were overwritten before they could be read.
                Ok(1..) | Err(Errno::PIPE | Errno::INTR) => {}
                Ok(0) | Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_is_there_is_seen_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let size = dir.path().join("size");
        fs::write(&size, "2048\n").unwrap();
        assert!(timeout(Duration::ZERO, wait(&size)).await.unwrap().unwrap());
        fs::remove_file(&size).unwrap();
        assert!(wait(&size).await.is_err());
    }

    #[tokio::test]
    async fn a_disk_that_comes_later_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let size = dir.path().join("size");
        fs::write(&size, "0\n").unwrap();
        if Log::open().is_err() {
            // Nothing to wait for without the right to read the kernel's log.
            return assert!(wait(&size).await.is_err());
        }
        let (arrived, ()) = tokio::join!(timeout(ARRIVAL_TIMEOUT, wait(&size)), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            fs::write(&size, "8\n").unwrap();
        });
        assert!(arrived.unwrap().unwrap());
    }
}
