// SPDX-License-Identifier: Apache-2.0
//! The server that `start` leaves behind: one thread, one sandbox, until containerd says Shutdown.
//!
//! A lost connection ends nothing: containerd restarts and comes back. What ends it: Shutdown when no
//! container is left, SIGTERM (the sandbox goes with it), or nobody ever wanting anything of it.

use std::env;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::args::Flags;
use crate::bootstrap::{SOCKET_VARIABLE, TTRPC_VARIABLE};
use crate::events::Publisher;
use crate::guest::Cube;
use crate::pod;
use crate::task::{self, Identity, Shim};

mod connections;

use connections::Connections;

/// How long nobody has to be connected to a shim before it asks itself whether anybody wants it:
/// containerd refused our answer, or died between `start` and Create, or gave the sandbox up. It dials
/// within milliseconds, but may be starved or restarting for long.
const UNWANTED_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for an orderly end; a boot may be under way. What has not ended then is killed.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for containerd to take the last events and close the connection.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// Runs in the bundle directory with the listening socket as standard input; see
/// [`crate::bootstrap::start`].
pub fn serve(flags: &Flags) -> anyhow::Result<()> {
    let listener = take_listener().context("there is no listening socket on standard input")?;
    // Already a group leader when run by hand; then there is nothing to leave.
    rustix::process::setsid().ok();
    let bundle = env::current_dir().context("the bundle directory cannot be told")?;
    let log = bundle.join("log");
    crate::log::init(&log, &flags.namespace, &flags.id, flags.debug);
    // The bundle is containerd's to remove.
    env::set_current_dir("/")?;
    let config = cube_runtime::Config::load()?;

    let identity = Identity {
        address: flags.address.clone(),
        namespace: flags.namespace.clone(),
        sandbox: flags.id.clone(),
        socket: env::var_os(SOCKET_VARIABLE).map(PathBuf::from),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let publisher = Publisher::new(env::var(TTRPC_VARIABLE).ok(), &flags.namespace);
        let shim = Shim::new(identity, config, Box::new(Cube), publisher.clone());
        run(Arc::new(shim), publisher, listener, &bundle).await
    });
    if let Err(error) = &served {
        tracing::error!("{error:#}");
    }
    // What is under way is dropped and undone by that; a thread that writes to a slow file is not
    // waited for.
    runtime.shutdown_background();
    served
}

async fn run(
    shim: Arc<Shim>,
    publisher: Publisher,
    listener: StdListener,
    bundle: &Path,
) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let connections = Connections::default();
    let incoming = connections.count(UnixListener::from_std(listener)?);
    let mut server = Server::new()
        .add_listener(Listener::new(incoming))
        .register_service(task::services(&shim))
        .register_service(pod::services(&shim));
    server.start().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    tokio::select! {
        () = shim.stopped() => tracing::debug!("asked to shut down"),
        _ = terminate.recv() => tracing::warn!("SIGTERM: the sandbox goes with its shim"),
        _ = interrupt.recv() => tracing::warn!("SIGINT: the sandbox goes with its shim"),
        () = unwanted(&shim, &connections, bundle) => tracing::warn!("nobody wants this shim: it ends"),
    }
    shim.stop();
    if timeout(END_LIMIT, shim.end()).await.is_err() {
        tracing::error!("the sandbox is given up: it did not end within {END_LIMIT:?}");
    }
    publisher.flush(FAREWELL_LIMIT).await;
    // The answer to Shutdown is on its way; its reader closes the connection.
    let farewell = timeout(FAREWELL_LIMIT, connections.none());
    if farewell.await.is_err() {
        tracing::debug!("a client stays connected; its answers are sent by now");
    }
    Ok(())
}

/// Standard input as an owned socket; /dev/null takes its place, so that nothing we start inherits it.
fn take_listener() -> std::io::Result<StdListener> {
    let listener: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    let listener = StdListener::from(listener);
    listener.local_addr()?;
    Ok(listener)
}

/// Returns when nobody will come back: there is nothing to come back to, or containerd has given the
/// sandbox up and removed its bundle.
async fn unwanted(shim: &Shim, connections: &Connections, bundle: &Path) {
    loop {
        connections.none().await;
        tokio::time::sleep(UNWANTED_LIMIT).await;
        if connections.is_none() && (shim.is_vacant() || !bundle.exists()) {
            return;
        }
    }
}
