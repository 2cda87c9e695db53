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

/// Whether there is something to open, now that it can still be said to whoever named it.
pub fn find(path: PathBuf) -> Result<PathBuf, StdioError> {
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(failed(path, source)),
    }
}

/// Opens standard input.
pub fn open(path: PathBuf) -> Result<(Source, Keeper), StdioError> {
    open_path(&path).map_err(|source| failed(path, source))
}

fn failed(path: PathBuf, source: io::Error) -> StdioError {
    StdioError::Open {
        stream: "stdin",
        path,
        source,
    }
}

/// A fifo that never had a writer does not report its end: the keeper is there even if it goes at once.
fn open_path(path: &Path) -> io::Result<(Source, Keeper)> {
    if !fs::metadata(path)?.file_type().is_fifo() {
        let file = tokio::fs::File::from_std(File::open(path)?);
        return Ok((Source::File(file), Keeper { _write: None }));
    }
    let receiver = pipe::OpenOptions::new().open_receiver(path)?;
    let write = pipe::OpenOptions::new().open_sender(path)?;
    let keeper = Keeper {
        _write: Some(write),
    };
    Ok((Source::Fifo(receiver), keeper))
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
