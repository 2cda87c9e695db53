// SPDX-License-Identifier: Apache-2.0
//! The action `delete`: remove what a sandbox left, from files alone.
//!
//! containerd runs it after every task, after a normal end as well as after a crash, waits at most
//! five seconds and then removes the bundle. So it is quick when nothing is left, works on a
//! half-made bundle and a second time, and asks no shim, no machine and no daemon.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use cube_runtime::{Config, Layout, SandboxKey};
use protobuf::Message;
use rustix::mount::{UnmountFlags, unmount};

use crate::args::Flags;
use crate::bundle::{self, Grouping, TaskState};
use crate::task::timestamp;

/// What a task without a known end is reported with: as if killed.
const KILLED: u32 = 128 + 9;

/// Mounts stacked on a bundle's `rootfs` that are taken down: a client stacks one or two.
const MAX_MOUNTS: usize = 64;

/// The result is what goes to standard output, byte for byte.
pub fn delete(flags: &Flags) -> anyhow::Result<Vec<u8>> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context("the bundle directory cannot be told")?,
    };
    // What cannot be read cannot stand in the way: a half-made bundle goes too.
    let saved = TaskState::load(&bundle).ok().flatten();
    let mut pid = saved.map(|state| state.pid);

    // The machine of a pod outlives this container of it.
    if !matches!(bundle::grouping(&bundle), Ok(Grouping::Member { .. })) {
        let config = Config::load()?;
        let key = SandboxKey {
            address: flags.address.clone(),
            namespace: flags.namespace.clone(),
            id: flags.id.clone(),
        };
        let reaped = cube_runtime::reap(&Layout::new(config.run), &key)?;
        pid = pid.or(reaped.pid);
        remove_dead_socket(&bundle);
    }
    unmount_all(&bundle.join("rootfs"));

    let exit = saved.and_then(|state| state.exit);
    let response = DeleteResponse {
        pid: pid.unwrap_or_default(),
        exit_status: exit.map_or(KILLED, |exit| exit.status),
        exited_at: Some(timestamp(
            exit.map_or_else(SystemTime::now, |exit| exit.at()),
        ))
        .into(),
        ..Default::default()
    };
    Ok(response.write_to_bytes()?)
}

/// A shim that was killed left its socket behind.
fn remove_dead_socket(bundle: &Path) {
    let Some(socket) = bundle::read_address(bundle) else {
        return;
    };
    let refused = io::ErrorKind::ConnectionRefused;
    if UnixStream::connect(&socket).is_err_and(|error| error.kind() == refused) {
        // One that stays behind is replaced by the next start.
        fs::remove_file(&socket).ok();
    }
}

/// A client may have mounted something there (docker's classic mode); the shim itself never does.
fn unmount_all(rootfs: &Path) {
    for _ in 0..MAX_MOUNTS {
        if unmount(rootfs, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            // EINVAL: no mount there any more. ENOENT: no directory. The bundle goes either way.
            return;
        }
    }
}
