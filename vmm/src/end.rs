// SPDX-License-Identifier: Apache-2.0
//! How a machine ends: any thread can say so, the first one to say it decides, and the main
//! thread hears of it through a descriptor it polls. Nobody exits on the spot, so that
//! processors and devices always stop in order.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use cube_hv::{RunError, VcpuError};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use thiserror::Error;

use crate::boot::BootError;
use crate::control::PacketError;
use crate::exit::ExitReason;
use crate::restore::RestoreError;

/// The end of a machine.
#[derive(Debug)]
pub enum End {
    /// The guest powered off.
    PoweredOff,
    /// The runtime said quit, or is gone.
    Quit,
    /// The guest asked for a reset.
    Reset,
    /// A virtual processor shut down.
    Shutdown {
        /// Its number.
        vcpu: u8,
    },
    /// The machine was never built.
    NotBuilt(Unbuilt),
    /// The host's side failed.
    Failed(Failure),
}

/// Why a machine was never built.
#[derive(Debug, Error)]
pub enum Unbuilt {
    /// From a kernel.
    #[error(transparent)]
    Boot(BootError),
    /// From a snapshot.
    #[error(transparent)]
    Restore(RestoreError),
}

/// What can fail on the host's side of a running machine.
#[derive(Debug, Error)]
pub enum Failure {
    /// A processor cannot go on.
    #[error("a virtual processor stopped")]
    Run(#[from] RunError),
    /// A processor could not be resumed.
    #[error("a virtual processor could not be resumed")]
    Resume(#[source] VcpuError),
    /// A thread that serves devices cannot go on.
    #[error("devices can no longer be served")]
    Devices(#[source] io::Error),
    /// The control socket.
    #[error("the runtime cannot be heard")]
    Control(#[from] PacketError),
    /// The main thread cannot wait for anything any more.
    #[error("the control socket cannot be waited for")]
    Wait(#[source] io::Error),
}

impl End {
    /// The exit code's meaning.
    pub fn reason(&self) -> ExitReason {
        match self {
            End::PoweredOff | End::Quit => ExitReason::Stopped,
            End::Reset => ExitReason::GuestReset,
            End::Shutdown { .. } => ExitReason::GuestFault,
            End::NotBuilt(_) => ExitReason::BootFailed,
            End::Failed(Failure::Run(_) | Failure::Resume(_)) => ExitReason::Hypervisor,
            End::Failed(Failure::Devices(_)) => ExitReason::Device,
            End::Failed(Failure::Control(_) | Failure::Wait(_)) => ExitReason::Control,
        }
    }
}

/// The line for the log, with every cause.
impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::PoweredOff => out.write_str("the guest powered off"),
            End::Quit => out.write_str("told to quit"),
            End::Reset => out.write_str("the guest asked for a reset"),
            End::Shutdown { vcpu } => write!(out, "virtual processor {vcpu} shut down"),
            End::NotBuilt(error) => out.write_str(&chain(error).join(": ")),
            End::Failed(failure) => out.write_str(&chain(failure).join(": ")),
        }
    }
}

/// Where ends are announced. Clones are one place.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    first: Mutex<Option<End>>,
    announced: OwnedFd,
}

impl Ending {
    /// Nothing has ended yet.
    pub fn new() -> io::Result<Self> {
        let announced = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            shared: Arc::new(Shared {
                first: Mutex::new(None),
                announced,
            }),
        })
    }

    /// Says that the machine is to end; later words change nothing.
    pub fn announce(&self, end: End) {
        let mut first = self.lock();
        if first.is_some() {
            return;
        }
        *first = Some(end);
        // Once in the life of the counter: it cannot be full.
        rustix::io::write(&self.shared.announced, &1u64.to_ne_bytes())
            .expect("a fresh eventfd takes one write");
    }

    /// Takes what was announced.
    pub fn take(&self) -> Option<End> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<End>> {
        self.shared
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable from the first announcement on.
impl AsFd for Ending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.announced.as_fd()
    }
}

/// An error and its causes, outermost first, as they go into the log and into replies.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut chain = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        chain.push(error.to_string());
        next = error.source();
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(ending: &Ending) -> bool {
        let mut fds = [PollFd::new(ending, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_first_announcement_decides_and_wakes() {
        let ending = Ending::new().unwrap();
        assert!(!readable(&ending));
        ending.announce(End::Reset);
        ending.announce(End::PoweredOff);
        assert!(readable(&ending));
        assert_eq!(ending.take().unwrap().reason(), ExitReason::GuestReset);
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let cause = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        let failure = Failure::Devices(cause);
        assert_eq!(
            chain(&failure),
            [
                "devices can no longer be served",
                "Input/output error (os error 5)"
            ]
        );
    }
}
