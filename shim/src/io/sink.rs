// SPDX-License-Identifier: Apache-2.0
//! Where a process's output goes: the outer end of one stream.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tokio::net::unix::pipe;

use super::StdioError;
use super::target::Target;

/// How often a fifo with unread bytes and no reader is looked at.
const LINGER_STEP: Duration = Duration::from_millis(20);
/// How long its bytes are kept for a reader that is yet to come: a restarting containerd.
const LINGER_LIMIT: Duration = Duration::from_secs(60);

/// An open target.
pub enum Sink {
    /// A fifo with a client somewhere.
    Fifo(FifoSink),
    /// The standard input side of a logger.
    Pipe(pipe::Sender),
    /// A file or a device; written by a thread of its own, since it cannot be waited for.
    File(Arc<File>),
}

/// A fifo held open from both sides: our own read end keeps a client's leaving from being an error,
/// our write end keeps the next client from reading the end.
pub struct FifoSink {
    write: pipe::Sender,
    read: File,
}

impl Sink {
    /// Opens a target that is not a logger; none for nowhere.
    pub fn open(stream: &'static str, target: Target) -> Result<Option<Self>, StdioError> {
        let (path, sink) = match target {
            Target::Null => return Ok(None),
            Target::Path(path) => {
                let sink = open_path(&path);
                (path, sink)
            }
            Target::File(path) => {
                let sink = open_log(&path);
                (path, sink)
            }
            // A logger serves both streams and is started once, for stdout.
            Target::Logger(spec) => return Err(unpaired(spec.program)),
        };
        match sink {
            Ok(sink) => Ok(Some(sink)),
            Err(source) => Err(StdioError::Open {
                stream,
                path,
                source,
            }),
        }
    }

    /// Writes all of a chunk; waits for as long as the target is full. The chunk comes back for reuse.
    pub async fn write_all(&mut self, chunk: Vec<u8>, length: usize) -> (Vec<u8>, io::Result<()>) {
        match self {
            Sink::Fifo(fifo) => {
                let result = write_pipe(&fifo.write, chunk.get(..length).unwrap_or_default()).await;
                (chunk, result)
            }
            Sink::Pipe(pipe) => {
                let result = write_pipe(pipe, chunk.get(..length).unwrap_or_default()).await;
                (chunk, result)
            }
            Sink::File(file) => {
                let file = file.clone();
                let write = tokio::task::spawn_blocking(move || {
                    let bytes = chunk.get(..length).unwrap_or_default();
                    let result = (&*file).write_all(bytes);
                    (chunk, result)
                });
                match write.await {
                    Ok(done) => done,
                    Err(error) => (Vec::new(), Err(io::Error::other(error))),
                }
            }
        }
    }

    /// After the last byte: gives the stream's end to the reader. If bytes are still unread and
    /// nobody has the fifo open, they would be lost with our ends of it, so those stay until somebody
    /// comes; nobody waits for that.
    pub fn finish(self) {
        let Sink::Fifo(FifoSink { write, read }) = self else {
            return;
        };
        let unread = rustix::io::ioctl_fionread(&read).unwrap_or(0);
        drop(read);
        if unread == 0 || has_reader(&write) {
            return;
        }
        tokio::spawn(async move {
            let patience = tokio::time::Instant::now() + LINGER_LIMIT;
            while !has_reader(&write) && tokio::time::Instant::now() < patience {
                tokio::time::sleep(LINGER_STEP).await;
            }
        });
    }
}

fn unpaired(program: PathBuf) -> StdioError {
    StdioError::Scheme {
        uri: format!("binary://{} for stderr alone", program.display()),
    }
}

/// The read end first: with it our opening of the write end never waits for a client.
fn open_path(path: &Path) -> io::Result<Sink> {
    if !fs::metadata(path)?.file_type().is_fifo() {
        let file = OpenOptions::new().append(true).open(path)?;
        return Ok(Sink::File(Arc::new(file)));
    }
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let write = pipe::OpenOptions::new().open_sender(path)?;
    Ok(Sink::Fifo(FifoSink { write, read }))
}

fn open_log(path: &Path) -> io::Result<Sink> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(Sink::File(Arc::new(file)))
}

async fn write_pipe(pipe: &pipe::Sender, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        pipe.writable().await?;
        match pipe.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe's write end reports POLLERR when no read end is open (pipe(7), poll(2)).
fn has_reader(write: &pipe::Sender) -> bool {
    let mut fds = [PollFd::new(write, PollFlags::OUT)];
    let polled = poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    );
    polled.is_ok() && !fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}
