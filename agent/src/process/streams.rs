// SPDX-License-Identifier: Apache-2.0
//! The agent's ends of a process's standard streams, and the connections of the host that they are joined
//! with. One connection per stream, one pump per connection, one buffer of bytes in between: whoever is
//! slow makes the other wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cube_protocol::Stdio;
use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, openat};
use rustix::io::{dup, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::task::AbortHandle;

use crate::cause::Cause;
use crate::sys;

/// Most bytes on their way per stream. As much as a pipe holds, so that one turn can empty it.
const BUFFER: usize = 64 * 1024;

/// Bytes on their way until there were as many: most streams carry a few lines, and what a buffer touches
/// once, it keeps from the host for as long as the process lives.
const FIRST_BUFFER: usize = 2 * 1024;

/// A connection of the host.
pub trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Connection for T {}

/// Which streams somebody will listen to or feed; the others are /dev/null.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
}

/// A connection that cannot be joined with a stream.
#[derive(Debug, Error)]
pub enum AttachError {
    /// CreateProcess did not ask for it.
    #[error("the process has no such stream")]
    None,
    /// Each stream has one connection.
    #[error("the stream already has a connection")]
    Taken,
}

/// A process's streams as the agent sees them.
#[derive(Debug, Default)]
pub struct Streams {
    ends: Mutex<Ends>,
}

#[derive(Debug, Default)]
struct Ends {
    stdin: End,
    stdout: End,
    stderr: End,
    pumps: Vec<AbortHandle>,
    /// The machine is being saved: connections that break are those of the machine that it was.
    is_held: bool,
}

/// The agent's end of a stream, for whoever moves its bytes. It closes with its last holder.
pub type StreamEnd = Arc<AsyncFd<OwnedFd>>;

#[derive(Debug, Default)]
enum End {
    /// /dev/null, or closed.
    #[default]
    None,
    /// For the host to connect to.
    Waiting(StreamEnd),
    /// In the hands of a pump, for as long as that has it.
    Taken(Weak<AsyncFd<OwnedFd>>),
}

impl Streams {
    /// Pipes for the streams that are wanted; also the process's ends, in order.
    pub fn pipes(wanted: Wanted) -> io::Result<(Self, [OwnedFd; 3])> {
        let mut ends = Ends::default();
        let stdin = if wanted.stdin {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            ends.stdin = End::waiting(writer, Interest::WRITABLE)?;
            reader
        } else {
            null()?
        };
        let output = |wanted: bool, end: &mut End| {
            if !wanted {
                return null();
            }
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            *end = End::waiting(reader, Interest::READABLE)?;
            Ok::<_, io::Error>(writer)
        };
        let stdout = output(wanted.stdout, &mut ends.stdout)?;
        let stderr = output(wanted.stderr, &mut ends.stderr)?;
        let ends = Mutex::new(ends);
        Ok((Self { ends }, [stdin, stdout, stderr]))
    }

    /// The process's side before it has a terminal of its own container.
    pub fn nulls() -> io::Result<(Self, [OwnedFd; 3])> {
        Ok((Self::default(), [null()?, null()?, null()?]))
    }

    /// Input and output are those of a terminal from now on.
    pub fn use_terminal(&self, master: &OwnedFd, wanted: Wanted) -> io::Result<()> {
        let mut ends = self.lock();
        if wanted.stdin {
            ends.stdin = End::waiting(dup(master)?, Interest::WRITABLE)?;
        }
        if wanted.stdout {
            ends.stdout = End::waiting(dup(master)?, Interest::READABLE)?;
        }
        Ok(())
    }

    /// Streams that nobody has connected to yet.
    pub fn waiting(&self) -> Vec<&'static str> {
        let ends = self.lock();
        [
            ("stdin", &ends.stdin),
            ("stdout", &ends.stdout),
            ("stderr", &ends.stderr),
        ]
        .into_iter()
        .filter(|(_, end)| matches!(end, End::Waiting(_)))
        .map(|(name, _)| name)
        .collect()
    }

    /// Reserves a stream for one connection.
    pub fn take(&self, stream: Stdio) -> Result<StreamEnd, AttachError> {
        let mut ends = self.lock();
        let end = ends.end(stream);
        match end {
            End::Waiting(fd) => {
                let fd = Arc::clone(fd);
                *end = End::Taken(Arc::downgrade(&fd));
                Ok(fd)
            }
            End::Taken(_) => Err(AttachError::Taken),
            End::None => Err(AttachError::None),
        }
    }

    /// While held, a stream whose connection breaks waits for another one instead of closing.
    pub fn hold(&self, is_held: bool) {
        self.lock().is_held = is_held;
    }

    /// The connections were those of the machine that this one was saved of: each stream that is still open
    /// waits for a new one. What was on its way belonged to that machine.
    pub fn rewind(&self) {
        let mut ends = self.lock();
        for stream in [Stdio::Stdin, Stdio::Stdout, Stdio::Stderr] {
            let end = ends.end(stream);
            if let End::Taken(fd) = end {
                *end = fd.upgrade().map_or(End::None, End::Waiting);
            }
        }
        for pump in ends.pumps.drain(..) {
            pump.abort();
        }
    }

    /// Which streams there are.
    pub fn wanted(&self) -> Wanted {
        let ends = self.lock();
        let is_there = |end: &End| !matches!(end, End::None);
        Wanted {
            stdin: is_there(&ends.stdin),
            stdout: is_there(&ends.stdout),
            stderr: is_there(&ends.stderr),
        }
    }

    /// Moves bytes between a stream taken before and its connection until either ends.
    pub fn pump(
        self: &Arc<Self>,
        stream: Stdio,
        fd: StreamEnd,
        connection: impl Connection + 'static,
    ) {
        let streams = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let result = pump(stream, fd, connection).await;
            if let Err((error, fd)) = result {
                let error = Cause::from(error);
                tracing::info!(?stream, %error, "stream ended early");
                if let (Some(streams), Some(fd)) = (streams.upgrade(), fd) {
                    streams.keep_if_held(stream, fd);
                }
            }
        });
        self.lock().pumps.push(task.abort_handle());
    }

    fn keep_if_held(&self, stream: Stdio, fd: StreamEnd) {
        let mut ends = self.lock();
        if ends.is_held {
            *ends.end(stream) = End::Waiting(fd);
        }
    }

    /// Closes everything, bytes on their way included.
    pub fn close(&self) {
        let mut ends = self.lock();
        for pump in ends.pumps.drain(..) {
            pump.abort();
        }
        *ends = Ends::default();
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

impl Ends {
    fn end(&mut self, stream: Stdio) -> &mut End {
        match stream {
            Stdio::Stdin => &mut self.stdin,
            Stdio::Stdout => &mut self.stdout,
            Stdio::Stderr => &mut self.stderr,
        }
    }
}

impl End {
    fn waiting(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // Neither a pipe nor a terminal has another flag that this could clear.
        fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(Self::Waiting(Arc::new(sys::watch(fd, interest)?)))
    }
}

fn null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, "/dev/null", flags, Mode::empty())?)
}

/// Moves bytes until either side ends. A stream that is not at its end comes back with the error.
async fn pump(
    stream: Stdio,
    fd: StreamEnd,
    mut host: impl Connection,
) -> Result<(), (io::Error, Option<StreamEnd>)> {
    let moved = match stream {
        Stdio::Stdin => to_process(&mut host, &fd).await,
        Stdio::Stdout | Stdio::Stderr => to_host(&fd, &mut host).await,
    };
    if let Err(error) = moved {
        return Err((error, Some(fd)));
    }
    // Frees the terminal or pipe before the wait.
    drop(fd);
    match stream {
        Stdio::Stdin => Ok(()),
        Stdio::Stdout | Stdio::Stderr => part(host).await.map_err(|error| (error, None)),
    }
}

/// Until the host half-closes; a process that closed its input ends it too.
async fn to_process(host: &mut impl Connection, process: &StreamEnd) -> io::Result<()> {
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        let count = host.read(&mut buffer).await?;
        let mut rest = &buffer[..count];
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let written = process
                .async_io(Interest::WRITABLE, |fd| Ok(write(fd, rest)?))
                .await?;
            rest = &rest[written..];
        }
        make_room(&mut buffer, count);
    }
}

/// Once a buffer was full.
fn make_room(buffer: &mut Vec<u8>, used: usize) {
    if used == buffer.len() {
        buffer.resize(BUFFER, 0);
    }
}

/// Until the last holder of the stream closes it.
async fn to_host(process: &StreamEnd, host: &mut impl Connection) -> io::Result<()> {
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        let count = process
            .async_io(Interest::READABLE, |fd| match read(fd, &mut buffer) {
                // A terminal whose other side nobody holds any more.
                Err(rustix::io::Errno::IO) => Ok(0),
                other => Ok(other?),
            })
            .await?;
        if count == 0 {
            return Ok(());
        }
        host.write_all(&buffer[..count]).await?;
        make_room(&mut buffer, count);
    }
}

/// Half-closes and waits for the host to close, so that nothing cuts off bytes that it has not read yet.
async fn part(mut host: impl Connection) -> io::Result<()> {
    host.shutdown().await?;
    let mut nothing = [0; 64];
    while host.read(&mut nothing).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    const ALL: Wanted = Wanted {
        stdin: true,
        stdout: true,
        stderr: true,
    };

    #[tokio::test]
    async fn bytes_pass_both_ways_and_ends_are_seen() {
        let (streams, [stdin, stdout, _stderr]) = Streams::pipes(ALL).unwrap();
        let streams = Arc::new(streams);
        let (mut host_in, agent_in) = UnixStream::pair().unwrap();
        let (mut host_out, agent_out) = UnixStream::pair().unwrap();
        let end = streams.take(Stdio::Stdin).unwrap();
        streams.pump(Stdio::Stdin, end, agent_in);
        let end = streams.take(Stdio::Stdout).unwrap();
        streams.pump(Stdio::Stdout, end, agent_out);
        assert_eq!(streams.waiting(), ["stderr"]);

        // The process: copies its input to its output, then ends.
        let copy = std::thread::spawn(move || {
            let (mut from, mut to) = (std::fs::File::from(stdin), std::fs::File::from(stdout));
            std::io::copy(&mut from, &mut to).unwrap()
        });
        let sent = vec![7; 1 << 20];
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            host_in.write_all(&sent).await.unwrap();
            host_in.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        host_out.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        writer.await.unwrap();
        assert_eq!(copy.join().unwrap(), 1 << 20);
    }

    #[tokio::test]
    async fn a_stream_is_given_away_once_and_only_if_it_exists() {
        let wanted = Wanted {
            stdout: true,
            ..Wanted::default()
        };
        let (streams, _process) = Streams::pipes(wanted).unwrap();
        assert!(matches!(
            streams.take(Stdio::Stderr),
            Err(AttachError::None)
        ));
        assert!(streams.take(Stdio::Stdout).is_ok());
        assert!(matches!(
            streams.take(Stdio::Stdout),
            Err(AttachError::Taken)
        ));
    }

    #[tokio::test]
    async fn a_held_stream_waits_for_another_connection() {
        let (streams, [mut stdin, stdout, _]) = Streams::pipes(ALL).unwrap();
        let streams = Arc::new(streams);
        let mut hosts = Vec::new();
        for stream in [Stdio::Stdin, Stdio::Stdout] {
            let (host, agent) = UnixStream::pair().unwrap();
            let end = streams.take(stream).unwrap();
            streams.pump(stream, end, agent);
            hosts.push(host);
        }
        streams.hold(true);
        // One breaks, with bytes of which nobody will ever read; the other one is as it was.
        write(&stdout, b"lost").unwrap();
        drop(hosts.pop());
        while streams.waiting() != ["stdout", "stderr"] {
            tokio::task::yield_now().await;
            write(&stdout, b".").unwrap();
        }
        streams.rewind();
        assert_eq!(streams.waiting(), ["stdin", "stdout", "stderr"]);
        streams.hold(false);
        let (mut host, agent) = UnixStream::pair().unwrap();
        let end = streams.take(Stdio::Stdin).unwrap();
        streams.pump(Stdio::Stdin, end, agent);
        host.write_all(b"again").await.unwrap();
        let mut bytes = [0; 5];
        let process = tokio::task::spawn_blocking(move || {
            read(&mut stdin, &mut bytes).unwrap();
            bytes
        });
        assert_eq!(&process.await.unwrap(), b"again");
    }

    #[tokio::test]
    async fn a_host_that_goes_away_closes_the_process_side() {
        let wanted = Wanted {
            stdout: true,
            ..Wanted::default()
        };
        let (streams, [_, stdout, _]) = Streams::pipes(wanted).unwrap();
        let streams = Arc::new(streams);
        let (host, agent) = UnixStream::pair().unwrap();
        let end = streams.take(Stdio::Stdout).unwrap();
        streams.pump(Stdio::Stdout, end, agent);
        drop(host);
        let broken = tokio::task::spawn_blocking(move || {
            loop {
                match write(&stdout, b"x") {
                    Ok(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    Err(errno) => return errno,
                }
            }
        });
        assert_eq!(broken.await.unwrap(), rustix::io::Errno::PIPE);
    }
}
