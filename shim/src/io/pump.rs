// SPDX-License-Identifier: Apache-2.0
//! One stream's bytes, from one end to the other, in order and without loss.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::Probe;
use super::sink::Sink;
use super::source::Source;

/// Bytes moved at once, and the most that ever wait here: a pipe's default capacity (pipe(7)).
const CHUNK: usize = 64 << 10;

/// Chunks moved before other streams and calls get their turn on the one thread.
const CHUNKS_AT_ONCE: usize = 16;

/// An ended process whose output is silent for so long, and whose guest is not just slow, has nothing
/// more to say; whoever still holds the stream open is a child of it that stayed behind.
pub const SILENCE: Duration = Duration::from_secs(2);

/// What ends an output stream that does not end by itself.
#[derive(Clone)]
pub struct Cutoff {
    /// Whether the process has ended.
    pub ended: watch::Receiver<bool>,
    /// See [`Probe`].
    pub probe: Probe,
}

/// Moves output until the machine's end of the stream is over, or the process ended and the stream
/// is silent. A target that fails (a full disk, a logger that died) costs its bytes, never the
/// process: they are read on and dropped.
pub async fn output(from: UnixStream, mut sink: Sink, mut cutoff: Cutoff) {
    let mut broken = false;
    'stream: loop {
        tokio::select! {
            biased;
            ready = from.readable() => if ready.is_err() { break },
            () = cutoff.reached() => break,
        }
        let mut chunk = vec![0; CHUNK];
        for _ in 0..CHUNKS_AT_ONCE {
            match from.try_read(&mut chunk) {
                Ok(0) => break 'stream,
                Ok(length) if !broken => {
                    let (back, result) = sink.write_all(chunk, length).await;
                    chunk = back;
                    chunk.resize(CHUNK, 0);
                    if let Err(error) = result {
                        tracing::warn!(%error, "output is dropped: its target failed");
                        broken = true;
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The machine ended: what it had sent was read before this.
                Err(_) => break 'stream,
            }
        }
    }
    sink.finish();
}

impl Cutoff {
    /// Raced against the next byte, so each byte begins it anew.
    async fn reached(&mut self) {
        if self.ended.wait_for(|ended| *ended).await.is_err() {
            // Nobody is left who could tell, and so nobody who waits.
            return;
        }
        loop {
            tokio::time::sleep(SILENCE).await;
            if (self.probe)().await {
                return;
            }
        }
    }
}

/// Moves input until its end, which is handed on by shutting down our side of the stream, or until
/// the process does not read any more.
pub async fn input(mut source: Source, mut to: UnixStream) {
    loop {
        if source.readable().await.is_err() {
            break;
        }
        let mut chunk = vec![0; CHUNK];
        let length = match source.read(&mut chunk).await {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::warn!(%error, "input could not be read any further");
                break;
            }
        };
        if to
            .write_all(chunk.get(..length).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
    // The stream itself stays until the machine drops it, so that its end cannot overtake its bytes.
    // An error says that the process has gone before its input.
    if to.shutdown().await.is_ok() {
        tokio::io::copy(&mut to, &mut tokio::io::sink()).await.ok();
    }
}
