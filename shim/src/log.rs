// SPDX-License-Identifier: Apache-2.0
//! The shim's log: lines into the `log` fifo of its bundle, which containerd copies into its own.
//!
//! A log may never stop a sandbox: nothing here waits. A line is dropped when the fifo is full or
//! containerd is away; after a restart containerd opens the fifo again and later lines arrive.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Longest line: writes up to this size enter a fifo whole or not at all (pipe(7), PIPE_BUF).
const MAX_LINE: usize = 4096;

/// Sends everything that is traced from now on into the fifo, panics included. Each line names its
/// sandbox: containerd pours the logs of all shims into one.
pub fn init(fifo: &Path, namespace: &str, sandbox: &str, debug: bool) {
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let format = LineFormat {
        sandbox: format!("{namespace}/{sandbox}"),
    };
    tracing_subscriber::fmt()
        .with_ansi(false)
        .event_format(format)
        .with_writer(LogFifo::new(fifo))
        .with_max_level(level)
        .init();
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

/// `2026-01-31T12:00:00.000000Z INFO cube default/t1: words field=value`
struct LineFormat {
    sandbox: String,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut line)?;
        write!(
            line,
            " {} cube {}: ",
            event.metadata().level(),
            self.sandbox
        )?;
        context.format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

/// The writable end, opened when there is something to write and somebody to read it.
#[derive(Clone)]
struct LogFifo {
    path: Arc<PathBuf>,
    open: Arc<Mutex<Option<File>>>,
}

impl LogFifo {
    fn new(path: &Path) -> Self {
        Self {
            path: Arc::new(path.to_owned()),
            open: Arc::default(),
        }
    }

    fn try_write(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *open {
            Some(file) => file,
            None => open.insert(open_fifo(&self.path)?),
        };
        let result = file.write_all(line);
        if matches!(&result, Err(error) if error.kind() != io::ErrorKind::WouldBlock) {
            // Its reader has gone; the next line looks for another.
            *open = None;
        }
        result
    }
}

/// Without O_CREAT: when containerd has removed the bundle, the log is over. ENXIO, when nobody
/// reads (fifo(7)).
fn open_fifo(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(path)
}

impl Write for LogFifo {
    /// A line that does not fit or finds no reader is dropped: see the top of this file.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let whole = line.len();
        let mut cut = Vec::new();
        let line = match line.get(..MAX_LINE - 1) {
            Some(start) if whole > MAX_LINE => {
                cut.extend_from_slice(start);
                cut.push(b'\n');
                &cut
            }
            _ => line,
        };
        // Dropped when the fifo is full or has no reader: see the top of this file.
        self.try_write(line).ok();
        Ok(whole)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFifo {
    type Writer = LogFifo;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::io::Read;

    fn reader(path: &Path) -> File {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .unwrap()
    }

    #[test]
    fn lines_are_dropped_without_a_reader_and_arrive_with_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFifo::new(&path);
        log.write_all(b"no fifo\n").unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        log.write_all(b"no reader\n").unwrap();
        let mut first = reader(&path);
        log.write_all(b"one\n").unwrap();
        let mut text = [0; 64];
        let length = first.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"one\n");

        // containerd restarts.
        drop(first);
        log.write_all(b"lost\n").unwrap();
        let mut second = reader(&path);
        log.write_all(b"two\n").unwrap();
        let length = second.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"two\n");
    }

    #[test]
    fn a_full_fifo_drops_whole_lines_and_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut reader = reader(&path);
        let mut log = LogFifo::new(&path);
        let line = [b"x".repeat(9_999), b"\n".to_vec()].concat();
        for _ in 0..100 {
            log.write_all(&line).unwrap();
        }
        let mut text = vec![0; 1 << 20];
        let length = reader.read(&mut text).unwrap();
        assert_eq!(length % MAX_LINE, 0);
        assert!(
            text[..length]
                .chunks(MAX_LINE)
                .all(|line| line.ends_with(b"x\n"))
        );
    }
}
