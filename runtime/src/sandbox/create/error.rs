// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on the way to a sandbox.

use std::io;

use cube_net::wire::NamespaceError;
use thiserror::Error;

use crate::cgroup::CgroupError;
use crate::error::Kind;
use crate::guest::ClaimError;
use crate::image::ImageError;
use crate::layout::{LayoutError, SandboxDir};
use crate::rootfs::RootfsError;
use crate::snapshot::SnapshotError;
use crate::template::WantedError;
use crate::vmm::VmmError;

/// Why a sandbox could not be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The guest image is missing or damaged.
    #[error("there is no guest to boot: build the guest image, or set CUBE_IMAGE to its directory")]
    Image(#[source] ImageError),
    /// Its directory could not be made.
    #[error("the sandbox's directory could not be set up")]
    Layout(#[source] LayoutError),
    /// No hardware virtualisation.
    #[error(
        "/dev/kvm could not be opened: this host cannot run microVMs; `cube doctor` says what is missing"
    )]
    Kvm(#[source] io::Error),
    /// The network namespace of the spec.
    #[error("the machine cannot live in the network namespace that it was given")]
    Netns(#[source] NamespaceError),
    /// The host's cgroup.
    #[error("the machine's cgroup could not be set up")]
    Cgroup(#[source] CgroupError),
    /// The VMM could not be started.
    #[error("the machine could not be started")]
    Spawn(#[source] VmmError),
    /// The VMM could not build or run the machine.
    #[error("the machine could not be booted")]
    Boot(#[source] VmmError),
    /// The VMM ended while it restored the machine.
    #[error("the machine could not be restored")]
    Restore(#[source] VmmError),
    /// The agent of a restored guest could not be reached or did not acknowledge the claim.
    #[error(
        "the guest that was restored from the template {template} has no identity of its own and was destroyed{}",
        words(last_words)
    )]
    Unclaimed {
        /// The template's name.
        template: String,
        /// The end of the machine's logs; empty if the cause has them.
        last_words: String,
        /// Why.
        source: Box<ClaimError>,
    },
    /// The guest's agent could not be reached or refused the claim.
    #[error("the guest did not come up{}", words(last_words))]
    Claim {
        /// The end of the machine's logs; empty if the cause has them.
        last_words: String,
        /// Why.
        source: Box<ClaimError>,
    },
    /// The snapshot to start from.
    #[error("the sandbox cannot start from its snapshot")]
    Snapshot(#[source] SnapshotError),
    /// The disk that is to get the snapshot's content.
    #[error("the sandbox's disk cannot get the snapshot's content")]
    SnapshotDisk(#[source] RootfsError),
    /// This program is shutting down.
    #[error("the sandbox was given up because this program is ending")]
    Abandoned,
}

/// The last words of a machine, for the end of a message.
pub(crate) fn words(last_words: &str) -> String {
    if last_words.is_empty() {
        String::new()
    } else {
        format!(" (last words: {last_words})")
    }
}

/// The end of a machine's logs, where the error does not have it already.
pub(super) fn last_words(error: &ClaimError, dir: &SandboxDir) -> String {
    match error {
        ClaimError::Timeout { .. } | ClaimError::Unacknowledged { .. } | ClaimError::Call(_) => {
            dir.last_words()
        }
        // The end of a machine carries its own, the others need none.
        _ => String::new(),
    }
}

impl CreateError {
    /// A guest that was booted could not be reached or claimed.
    pub(crate) fn claim(source: ClaimError, dir: &SandboxDir) -> Self {
        CreateError::Claim {
            last_words: last_words(&source, dir),
            source: Box::new(source),
        }
    }

    pub(super) fn wanted(error: WantedError) -> Self {
        match error {
            WantedError::Image(source) => CreateError::Image(source),
            WantedError::Vmm(source) => CreateError::Spawn(source),
            WantedError::VmmFile { path, source } => CreateError::Spawn(VmmError::Spawn {
                program: path,
                source,
            }),
            WantedError::Host(source) => CreateError::Kvm(io::Error::other(source)),
        }
    }

    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            CreateError::Image(source) => source.kind(),
            CreateError::Layout(LayoutError::Exists { .. }) => Kind::AlreadyExists,
            CreateError::Layout(_) | CreateError::Cgroup(_) => Kind::Internal,
            CreateError::Kvm(_) => Kind::FailedPrecondition,
            CreateError::Netns(_) => Kind::InvalidArgument,
            CreateError::Spawn(source)
            | CreateError::Boot(source)
            | CreateError::Restore(source) => source.kind(),
            CreateError::Claim { source, .. } | CreateError::Unclaimed { source, .. } => {
                source.kind()
            }
            CreateError::Snapshot(source) => source.kind(),
            CreateError::SnapshotDisk(source) => source.kind(),
            CreateError::Abandoned => Kind::Unavailable,
        }
    }
}
