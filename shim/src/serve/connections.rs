// SPDX-License-Identifier: Apache-2.0
//! How many clients are connected.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Pause after a failed accept: the reasons (out of descriptors or memory) do not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A count that can be waited for.
#[derive(Clone)]
pub struct Connections {
    open: Arc<watch::Sender<usize>>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            open: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl Connections {
    /// The connections of a listener, counted while they live.
    pub fn count(
        &self,
        listener: UnixListener,
    ) -> impl Stream<Item = io::Result<Connection>> + use<> {
        stream::unfold((listener, self.clone()), |(listener, connections)| async {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => {
                    connections.open.send_modify(|open| *open += 1);
                    Ok(Connection {
                        stream,
                        open: connections.open.clone(),
                    })
                }
                Err(error) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    Err(error)
                }
            };
            Some((accepted, (listener, connections)))
        })
    }

    /// Waits until nobody is connected.
    pub async fn none(&self) {
        // The sender is in self: it cannot be gone.
        self.open.subscribe().wait_for(|open| *open == 0).await.ok();
    }

    /// Whether nobody is connected.
    pub fn is_none(&self) -> bool {
        *self.open.borrow() == 0
    }
}

/// One client's connection.
pub struct Connection {
    stream: UnixStream,
    open: Arc<watch::Sender<usize>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
