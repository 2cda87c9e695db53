// SPDX-License-Identifier: Apache-2.0
//! The action `start`: leave a server behind and tell containerd where it listens.
//!
//! It runs before every container, so there is no async runtime here and nothing is read that is not
//! needed. containerd reads both output streams of this process together as the answer, and waits
//! for their end: not one byte may be printed besides, and the server must not inherit them.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::args::Flags;
use crate::bundle::{self, Grouping};

mod dialect;
mod socket;

use dialect::Invitation;
use socket::{Binding, SocketPath};

/// How a server is told its socket's path, which it removes when it ends.
pub const SOCKET_VARIABLE: &str = "CUBE_SHIM_SOCKET";
/// Where containerd takes events. Part of the environment up to 2.2; from 2.3 on in a message as well.
pub const TTRPC_VARIABLE: &str = "TTRPC_ADDRESS";

/// Longest message on standard input. Runtime options are a few hundred bytes.
const MAX_INVITATION: u64 = 4 << 20;

/// Runs in the bundle directory; the result is what goes to standard output, byte for byte.
pub fn start(flags: &Flags) -> anyhow::Result<Vec<u8>> {
    let config = cube_runtime::Config::load()?;
    let bundle = std::env::current_dir().context("the bundle directory cannot be told")?;
    let mut stdin = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_INVITATION)
        .read_to_end(&mut stdin)
        .context("containerd's message on standard input could not be read")?;
    let invitation = Invitation::read(&stdin, flags, config.task_v3);

    let grouping = bundle::grouping(&bundle)?;
    let group = grouping.sandbox_id().unwrap_or(&flags.id);
    let path = SocketPath::new(
        invitation.socket_dir.as_deref(),
        &flags.address,
        &flags.namespace,
        group,
    )?;
    let server = match &grouping {
        // A container of a pod lives in the shim of the pod's sandbox, or not at all.
        Grouping::Member { .. } => {
            socket::join(&path)?;
            None
        }
        Grouping::Leader => match socket::bind_or_join(&path)? {
            Binding::Bound(listener) => Some(spawn(flags, &invitation, &path, listener.into())?),
            Binding::Joined => None,
        },
    };
    if let Err(error) = bundle::write_address(&bundle, path.address().as_bytes()) {
        if let Some(mut server) = server {
            // The error that is being reported matters more than one of tidying up after it.
            server.kill().ok();
            server.wait().ok();
            fs::remove_file(path.as_path()).ok();
        }
        return Err(error.into());
    }
    Ok(invitation.reply(path.address()))
}

/// Starts the server with the listening socket as its standard input: the one descriptor a child can
/// be given without touching close-on-exec flags by hand.
fn spawn(
    flags: &Flags,
    invitation: &Invitation,
    path: &SocketPath,
    listener: OwnedFd,
) -> anyhow::Result<std::process::Child> {
    raise_oom_score();
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(&program);
    command
        .args(["-namespace", &flags.namespace, "-id", &flags.id])
        .args(["-address", &flags.address])
        .env(SOCKET_VARIABLE, path.as_path())
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if flags.debug || invitation.debug {
        command.arg("-debug");
    }
    if let Some(address) = &invitation.ttrpc_address {
        command.env(TTRPC_VARIABLE, address);
    }
    command.arg("serve").spawn().map_err(|error| {
        // A socket that stays behind is replaced by the next start.
        fs::remove_file(path.as_path()).ok();
        anyhow::Error::new(error).context(format!(
            "the shim's server {} could not be started",
            program.display()
        ))
    })
}

/// Should memory run out, a sandbox goes before the containerd that made it: one point above its
/// score, inherited by the server and the machine.
fn raise_oom_score() {
    let score = |path: &str| -> Option<i32> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let parent = std::os::unix::process::parent_id();
    if let Some(theirs) = score(&format!("/proc/{parent}/oom_score_adj")) {
        let ours = theirs.saturating_add(1).min(1000);
        // Refused without CAP_SYS_RESOURCE where our score is higher already, which is as good.
        fs::write(Path::new("/proc/self/oom_score_adj"), ours.to_string()).ok();
    }
}
