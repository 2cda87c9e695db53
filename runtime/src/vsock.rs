// SPDX-License-Identifier: Apache-2.0
//! The host's side of a guest's vsock: a Unix socket with a one-line handshake.
//!
//! Connect, send `CONNECT <port>\n`, read `OK <host port>\n`, then bytes (the hybrid convention that
//! Firecracker introduced). A connection that nobody in the guest accepts is closed without the `OK`.

use std::io;
use std::path::Path;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest answer: `OK ` and a 32-bit port.
const MAX_ANSWER: usize = 16;

/// Connects to a port of the guest.
pub(crate) async fn dial(socket: &Path, port: u32) -> Result<UnixStream, DialError> {
    let failed = |source| DialError::Io { port, source };
    let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await
        .map_err(failed)?;
    // Byte by byte: what comes behind the line belongs to the caller.
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) if answer.len() < MAX_ANSWER => answer.push(byte),
            Ok(_) => return Err(DialError::Answer { port }),
            Err(error) if is_close(&error) => return Err(DialError::Refused { port }),
            Err(source) => return Err(failed(source)),
        }
    }
    let well_formed = answer
        .strip_prefix(b"OK ")
        .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit));
    if well_formed {
        Ok(stream)
    } else {
        Err(DialError::Answer { port })
    }
}

fn is_close(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Why a port of the guest could not be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// Nobody in the guest listens there (yet).
    #[error("nobody in the guest listens on vsock port {port}")]
    Refused {
        /// The port.
        port: u32,
    },
    /// The VMM's end of the socket said something else.
    #[error("the VMM's answer to a connection to vsock port {port} was malformed")]
    Answer {
        /// The port.
        port: u32,
    },
    /// The socket failed.
    #[error("the connection to vsock port {port} failed")]
    Io {
        /// The port.
        port: u32,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn check(answer: &'static [u8], rest: &'static [u8]) -> Result<Vec<u8>, DialError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 13];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 1024\n");
            stream.write_all(answer).await.unwrap();
            stream.write_all(rest).await.unwrap();
        });
        let mut stream = dial(&path, 1024).await?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        Ok(got)
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_the_callers() {
        assert_eq!(check(b"OK 70000\n", b"abc").await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn a_close_without_an_answer_is_a_refusal() {
        let error = check(b"", b"").await.unwrap_err();
        assert!(matches!(error, DialError::Refused { port: 1024 }));
    }

    #[tokio::test]
    async fn anything_else_is_malformed() {
        for answer in [
            &b"OK \n"[..],
            b"NO 1\n",
            b"OK 1x\n",
            b"OK 11111111111111111111111\n",
            b"\n",
        ] {
            let error = check(answer, b"").await.unwrap_err();
            assert!(matches!(error, DialError::Answer { .. }), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn no_socket_is_an_io_error() {
        let error = dial(Path::new("/nonexistent/v"), 1024).await.unwrap_err();
        assert!(matches!(error, DialError::Io { .. }));
    }
}
