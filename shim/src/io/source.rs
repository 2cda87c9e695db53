// SPDX-License-Identifier: Apache-2.0
//! Where a process's input comes from.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::net::unix::pipe;

use super::StdioError;

/// The readable end.
pub enum Source {
    /// A fifo with a client somewhere.
    Fifo(pipe::Receiver),
    /// A file or a device; read by a thread of its own, since it cannot be waited for.
    File(tokio::fs::File),
}

/// Our own write end of the fifo. While it is held, a client that closes its end does not end the
/// input: `attach` may bring the next. Dropped by CloseIO.
pub struct Keeper {
    _write: Option<pipe::Sender>,
}

/// Opens standard input, without our own write end if CloseIO came first.
pub fn open(path: PathBuf, closed: bool) -> Result<(Source, Keeper), StdioError> {
    open_path(&path, closed).map_err(|source| StdioError::Open {
        stream: "stdin",
        path,
        source,
    })
}

fn open_path(path: &Path, closed: bool) -> io::Result<(Source, Keeper)> {
    if !fs::metadata(path)?.file_type().is_fifo() {
        let file = tokio::fs::File::from_std(File::open(path)?);
        return Ok((Source::File(file), Keeper { _write: None }));
    }
    let receiver = pipe::OpenOptions::new().open_receiver(path)?;
    // Opened even if it is not kept: a fifo that had no writer yet does not report its end.
    let write = pipe::OpenOptions::new().open_sender(path)?;
    let write = (!closed).then_some(write);
    Ok((Source::Fifo(receiver), Keeper { _write: write }))
}

impl Source {
    /// Waits until there is something to read, or the end. A file is always ready.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Source::Fifo(fifo) => fifo.readable().await,
            Source::File(_) => Ok(()),
        }
    }

    /// Reads what there is; 0 is the end.
    pub async fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        use tokio::io::AsyncReadExt;
        match self {
            Source::Fifo(fifo) => fifo.try_read(chunk),
            Source::File(file) => file.read(chunk).await,
        }
    }
}
