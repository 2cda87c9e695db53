// SPDX-License-Identifier: Apache-2.0
//! A byte stream to a TCP port of a sandbox, those on its loopback included, with or without a network: through
//! its agent over vsock.
//!
//! For whoever knows a sandbox's directory ([`crate::Layout::path`]): the shim need not be asked. The
//! caller sees what a TCP client in the sandbox would see; the bytes are the guest's and nothing looks at them.

use std::io;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::layout;
use crate::vsock::{self, DialError};

/// How long the agent may take to reach a port: its own limit for each of a few addresses, and some.
const LIMIT: Duration = Duration::from_secs(30);

/// Connects to a port of the sandbox in this directory.
pub async fn open(dir: &Path, port: u16) -> Result<UnixStream, PortError> {
    connect(&layout::vsock_path(dir), port).await
}

/// The same by the machine's vsock.
pub(crate) async fn connect(vsock: &Path, port: u16) -> Result<UnixStream, PortError> {
    let connecting = async {
        let mut stream = vsock::dial(vsock, cube_protocol::TCP_PORT)
            .await
            .map_err(|source| PortError::Dial { port, source })?;
        let failed = |source| PortError::Io { port, source };
        stream.write_u16(port).await.map_err(failed)?;
        match stream.read_u8().await.map_err(failed)? {
            0 => Ok(stream),
            errno => Err(PortError::closed(port, errno)),
        }
    };
    let limited = timeout(LIMIT, connecting).await;
    limited.unwrap_or(Err(PortError::Timeout { port }))
}

/// Why a port was not reached.
#[derive(Debug, Error)]
pub enum PortError {
    /// The sandbox is not there, or its agent does not answer.
    #[error("the sandbox could not be reached for its port {port}")]
    Dial {
        /// The port.
        port: u16,
        /// Why.
        source: DialError,
    },
    /// Nobody listens there.
    #[error("nobody listens on port {port} of the sandbox")]
    Closed {
        /// The port.
        port: u16,
    },
    /// The guest could not connect to itself.
    #[error("the sandbox could not connect to its port {port}")]
    Refused {
        /// The port.
        port: u16,
        /// What its kernel said.
        source: io::Error,
    },
    /// The connection to the agent broke.
    #[error("the connection to port {port} of the sandbox broke before it was there")]
    Io {
        /// The port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("the sandbox did not connect to its port {port} within {} s", LIMIT.as_secs())]
    Timeout {
        /// The port.
        port: u16,
    },
}

impl PortError {
    fn closed(port: u16, errno: u8) -> Self {
        let source = io::Error::from_raw_os_error(errno.into());
        match source.kind() {
            io::ErrorKind::ConnectionRefused => PortError::Closed { port },
            _ => PortError::Refused { port, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A machine whose agent answers with these bytes.
    async fn answering(answer: &'static [u8]) -> Result<Vec<u8>, PortError> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(layout::vsock_path(dir.path())).unwrap();
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 13];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT 1027\n");
            stream.write_all(b"OK 1\n").await.unwrap();
            assert_eq!(stream.read_u16().await.unwrap(), 8080);
            stream.write_all(answer).await.unwrap();
        });
        let mut stream = open(dir.path(), 8080).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        agent.await.unwrap();
        Ok(bytes)
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_the_ports() {
        assert_eq!(answering(b"\0SSH-2.0").await.unwrap(), b"SSH-2.0");
    }

    #[tokio::test]
    async fn an_error_number_is_told_in_words() {
        let closed = answering(&[111]).await.unwrap_err();
        assert!(matches!(closed, PortError::Closed { port: 8080 }));
        let refused = answering(&[24]).await.unwrap_err();
        assert!(matches!(refused, PortError::Refused { .. }));
        let broken = answering(b"").await.unwrap_err();
        assert!(matches!(broken, PortError::Io { .. }));
    }

    #[tokio::test]
    async fn a_sandbox_that_is_not_there_is_told() {
        let error = open(Path::new("/nonexistent"), 80).await.unwrap_err();
        assert!(matches!(error, PortError::Dial { port: 80, .. }));
    }
}
