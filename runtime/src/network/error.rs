// SPDX-License-Identifier: Apache-2.0
//! Why a sandbox has not the network that its namespace has.

use std::io;

use cube_net::netlink::NetlinkError;
use cube_net::policy::PolicyError;
use cube_net::table::TableError;
use cube_net::wire::{NamespaceError, ScanError, TapError, WatchError};
use thiserror::Error;

use super::UndoError;
use crate::error::Kind;
use crate::guest::GuestError;
use crate::layout::LayoutError;
use crate::vmm::VmmError;

/// Which step failed, and on what.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The namespace cannot be worked in.
    #[error("there is no working in the sandbox's network namespace")]
    Namespace(#[source] NamespaceError),
    /// The kernel cannot be asked.
    #[error("there is no asking the kernel about the sandbox's network")]
    Netlink(#[source] NetlinkError),
    /// What is in the namespace cannot be the guest's.
    #[error("the network in the sandbox's namespace cannot be the guest's")]
    Scan(#[source] ScanError),
    /// Its interfaces cannot be watched.
    #[error("the sandbox's interfaces cannot be watched")]
    Watch(#[source] WatchError),
    /// What is about to be made could not be written down.
    #[error("the sandbox's network could not be written down")]
    Record(#[source] LayoutError),
    /// There is no tap.
    #[error(
        "the tap {tap} for the interface {interface} could not be made{}",
        taken(source)
    )]
    MakeTap {
        /// The tap.
        tap: String,
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// A link does not come up.
    #[error("the sandbox's side of its network does not come up")]
    Tap(#[source] TapError),
    /// Interfaces and taps could not be tied together.
    #[error("the sandbox's interfaces could not be wired to its taps")]
    Table(#[source] TableError),
    /// What the sandbox is to be allowed is no policy.
    #[error("the sandbox's egress policy cannot be used")]
    Policy(#[source] PolicyError),
    /// The sandbox's containers ask name servers of their own, whose answers nobody here sees.
    #[error(
        "{name} cannot be allowed in a sandbox that was started without an egress policy: start it with one, `{{}}` suffices"
    )]
    NamesLater {
        /// The first one.
        name: String,
    },
    /// The machine did not take a tap.
    #[error("the interface {interface} could not be attached to the machine")]
    Device {
        /// The interface.
        interface: String,
        /// Why.
        source: VmmError,
    },
    /// The guest did not take the interfaces over.
    #[error("the guest could not take over the sandbox's interfaces")]
    Guest(#[source] GuestError),
    /// What was made for it before stays.
    #[error("what was made for the sandbox's network stays")]
    Undo(#[source] UndoError),
    /// This program is shutting down.
    #[error("the network was given up because this program is ending")]
    Abandoned,
}

/// What a name that is taken means.
fn taken(source: &io::Error) -> &'static str {
    let errno = rustix::io::Errno::from_io_error(source);
    match errno {
        Some(rustix::io::Errno::BUSY) => ": is the namespace another sandbox's too?",
        _ => "",
    }
}

impl NetworkError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            NetworkError::Scan(ScanError::TooMany { .. }) => Kind::ResourceExhausted,
            NetworkError::Policy(_) => Kind::InvalidArgument,
            NetworkError::NamesLater { .. } => Kind::FailedPrecondition,
            NetworkError::Scan(ScanError::Multipath { .. }) => Kind::Unimplemented,
            NetworkError::Namespace(_)
            | NetworkError::Netlink(_)
            | NetworkError::Scan(ScanError::Dump { .. })
            | NetworkError::Watch(_)
            | NetworkError::Record(_)
            | NetworkError::MakeTap { .. }
            | NetworkError::Tap(_)
            | NetworkError::Table(_)
            | NetworkError::Undo(_) => Kind::Internal,
            NetworkError::Device { source, .. } => source.kind(),
            NetworkError::Guest(source) => source.kind(),
            NetworkError::Abandoned => Kind::Unavailable,
        }
    }
}
