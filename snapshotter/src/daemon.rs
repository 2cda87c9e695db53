// SPDX-License-Identifier: Apache-2.0
//! The process: lock, socket, store, in this order, until SIGTERM or SIGINT, and back.
//!
//! Whatever fails on the way up ends the process with one message, and what was already up is taken
//! down again. `kill -9` needs no care: see `snapshotter` and `reconcile`.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::Mode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::args::Args;
use crate::lock::Lock;
use crate::service::Service;
use crate::snapshotter::Snapshotter;
use crate::socket::Socket;
use crate::storage::{self, Storage};
use crate::wire::snapshots_server::SnapshotsServer;

/// Requests that work on the disk at once; more wait. A burst of Prepares is bound by the catalog's
/// one writer long before this, and each thread costs memory.
const WORKERS: usize = 16;
/// Idle workers end after this.
const WORKER_IDLE: Duration = Duration::from_secs(5);
/// Workers go no deeper than redb's and serde's call trees.
const WORKER_STACK_BYTES: usize = 512 << 10;
/// What a stop waits for requests under way; containerd keeps its connection open all its life.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Runs until it is told to stop.
///
/// # Errors
/// When the store or the socket cannot be had.
pub fn run(args: &Args) -> Result<()> {
    // Images, catalog and pool hold what containers wrote: for root alone, whatever made the root.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    storage::make_private(&args.root)?;
    let root = args.root.canonicalize();
    let root = root.with_context(|| format!("could not find {}", args.root.display()))?;
    let _lock = Lock::take(&root, &root.join("lock"))?;
    // Bound before the store is open: a client that comes early waits instead of failing.
    let (socket, listener) = Socket::bind(&args.address)?;
    let storage = Storage::open(&root, args.pool_size)?;
    let snapshotter = Arc::new(Snapshotter::open(storage, args.size)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WORKERS)
        .thread_keep_alive(WORKER_IDLE)
        .thread_stack_size(WORKER_STACK_BYTES)
        .build()
        .context("could not start the event loop")?;
    tracing::info!(address = %args.address.display(), root = %root.display(), "serving");
    let served = runtime.block_on(serve(Arc::clone(&snapshotter), listener));
    drop(socket);
    runtime.shutdown_timeout(STOP_WAIT);
    match Arc::into_inner(snapshotter) {
        Some(snapshotter) => snapshotter.flush()?,
        None => tracing::warn!("a request is stuck: the store is left as after a crash"),
    }
    served
}

async fn serve(snapshotter: Arc<Snapshotter>, listener: UnixListener) -> Result<()> {
    let listener =
        tokio::net::UnixListener::from_std(listener).context("could not watch the socket")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not watch for SIGINT")?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(SnapshotsServer::new(Service::new(snapshotter)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            // An error means that the sender is gone, which is a reason to stop as well.
            drop(stopped.await);
        });
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.context("could not go on serving"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    drop(stop);
    match tokio::time::timeout(STOP_WAIT, server).await {
        Ok(ended) => ended.context("could not end serving"),
        Err(_) => {
            tracing::warn!("requests still under way are cut off");
            Ok(())
        }
    }
}
