// SPDX-License-Identifier: Apache-2.0
//! A connection that tells when it is gone.
//!
//! A ttrpc client fails its pending calls when the connection breaks, but tells nobody else. It drops
//! the socket then, and that is what is noticed here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// A stream with a witness: the receiver of [`Link::new`] resolves when it is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    _witness: oneshot::Sender<()>,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> (Self, oneshot::Receiver<()>) {
        let (witness, gone) = oneshot::channel();
        let link = Self {
            stream,
            _witness: witness,
        };
        (link, gone)
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
