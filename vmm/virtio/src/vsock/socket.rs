// SPDX-License-Identifier: Apache-2.0
//! A connected Unix socket of a program on the host.
//!
//! It is polled edge-triggered: `readable` and `writable` are what the last edge said until a call
//! says otherwise, so no system call is spent on changing what is waited for.
//!
//! A program that has gone makes writes fail with EPIPE, not with SIGPIPE: Rust's runtime has the
//! signal ignored.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv};
use vm_memory::{GuestMemory, Permissions, VolatileMemoryError, VolatileSlice, WriteVolatile};

use super::MAX_GREETING_BYTES;
use crate::chain::{MemoryError, Span};

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    /// Nothing now.
    Later,
    /// The program sends nothing more.
    End,
}

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// So many bytes were taken; all that can be for now.
    Bytes(usize),
    /// The program takes nothing more.
    Gone,
}

/// What came of the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The line is not complete.
    Later,
    /// A connection to this port of the guest.
    Connect(u32),
    /// Not a greeting, or the program has gone.
    Refuse,
}

/// See the module.
#[derive(Debug)]
pub(super) struct HostSocket {
    fd: OwnedFd,
    pub readable: bool,
    pub writable: bool,
    reads: bool,
    writes: bool,
}

impl HostSocket {
    /// `fd` is non-blocking.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: false,
            writable: true,
            reads: true,
            writes: true,
        }
    }

    /// Reads what there is, up to the length of `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        loop {
            return match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(0) => self.end(),
                Ok(len) => Read::Bytes(len),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    Read::Later
                }
                // ECONNRESET: it closed without reading what it was sent.
                Err(_) => self.end(),
            };
        }
    }

    /// Reads on in the first line, into `line`, and nothing behind it.
    pub fn greeting(&mut self, line: &mut Vec<u8>) -> Greeting {
        let mut buffer = [0; MAX_GREETING_BYTES];
        while let room = MAX_GREETING_BYTES.saturating_sub(line.len())
            && let Some(buffer) = buffer.get_mut(..room)
            && !buffer.is_empty()
        {
            let seen = match recv(&self.fd, &mut *buffer, RecvFlags::PEEK) {
                Ok((0, _)) => return Greeting::Refuse,
                Ok((seen, _)) => seen,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return Greeting::Later;
                }
                Err(_) => return Greeting::Refuse,
            };
            let seen = buffer.get(..seen).unwrap_or_default();
            let end = seen.iter().position(|byte| *byte == b'\n');
            let wanted = end.map_or(seen.len(), |end| end + 1);
            let Some(buffer) = buffer.get_mut(..wanted) else {
                return Greeting::Refuse;
            };
            // These bytes are there: the socket has one reader.
            if rustix::io::read(&self.fd, &mut *buffer) != Ok(wanted) {
                return Greeting::Refuse;
            }
            line.extend_from_slice(buffer);
            if end.is_some() {
                return parse_greeting(line).map_or(Greeting::Refuse, Greeting::Connect);
            }
        }
        Greeting::Refuse
    }

    /// Writes both slices, in order, as far as they are taken.
    pub fn write(&mut self, first: &[u8], second: &[u8]) -> Write {
        let want = first.len() + second.len();
        loop {
            return match rustix::io::writev(&self.fd, &[IoSlice::new(first), IoSlice::new(second)])
            {
                Ok(len) => {
                    self.writable = len == want;
                    Write::Bytes(len)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    Write::Bytes(0)
                }
                Err(_) => Write::Gone,
            };
        }
    }

    /// Writes guest memory, as far as it is taken.
    pub fn write_guest(&mut self, data: Span<'_>) -> Result<Write, MemoryError> {
        let mut taken = 0;
        for piece in data.pieces() {
            let access = |source| MemoryError::Access {
                addr: piece.addr.0,
                len: piece.len,
                source,
            };
            let slices = data
                .memory()
                .get_slices(piece.addr, piece.len, Permissions::Read);
            for slice in slices.map_err(access)? {
                let slice = slice.map_err(access)?;
                match self.write_slice(&slice) {
                    Write::Bytes(len) => taken += len,
                    Write::Gone => return Ok(Write::Gone),
                }
                if !self.writable {
                    return Ok(Write::Bytes(taken));
                }
            }
        }
        Ok(Write::Bytes(taken))
    }

    /// Writes one piece of guest memory that is known to exist.
    fn write_slice(&mut self, slice: &VolatileSlice<'_>) -> Write {
        loop {
            let error = match self.fd.as_fd().write_volatile(slice) {
                Ok(len) => {
                    self.writable = len == slice.len();
                    return Write::Bytes(len);
                }
                Err(VolatileMemoryError::IOError(error)) => Errno::from_io_error(&error),
                Err(_) => None,
            };
            match error {
                Some(Errno::INTR) => {}
                Some(Errno::AGAIN) => {
                    self.writable = false;
                    return Write::Bytes(0);
                }
                _ => return Write::Gone,
            }
        }
    }

    /// The program will read the end of the stream.
    pub fn end_writing(&mut self) {
        if std::mem::take(&mut self.writes) {
            self.shutdown(Shutdown::Write);
        }
    }

    /// The program's writes will fail.
    pub fn end_reading(&mut self) {
        if std::mem::take(&mut self.reads) {
            self.readable = false;
            self.shutdown(Shutdown::Read);
        }
    }

    fn end(&mut self) -> Read {
        self.readable = false;
        Read::End
    }

    fn shutdown(&self, how: Shutdown) {
        match rustix::net::shutdown(&self.fd, how) {
            // ENOTCONN: the program has closed its end already.
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(error) => tracing::warn!(%error, "cannot shut down a host socket"),
        }
    }
}

impl AsFd for HostSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `CONNECT <port>\n`, in decimal digits.
fn parse_greeting(line: &[u8]) -> Option<u32> {
    let port = line.strip_prefix(b"CONNECT ")?.strip_suffix(b"\n")?;
    let digits = port.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(port)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings() {
        let check =
            |line: &str, port| assert_eq!(parse_greeting(line.as_bytes()), port, "{line:?}");
        check("CONNECT 1024\n", Some(1024));
        check("CONNECT 4294967295\n", Some(u32::MAX));
        check("CONNECT 4294967296\n", None);
        check("CONNECT +1\n", None);
        check("CONNECT -1\n", None);
        check("CONNECT 0x10\n", None);
        check("CONNECT \n", None);
        check("CONNECT 1024", None);
        check("CONNECT 1024\r\n", None);
        check("connect 1024\n", None);
        check("\n", None);
    }
}
