// SPDX-License-Identifier: Apache-2.0
//! The runtime's end of the control socket. Blocking: an asynchronous caller puts it on a
//! thread of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use thiserror::Error;

use super::message::{Reply, Request, Stats};
use super::packet::{self, PacketError};
use crate::config::{BootConfig, RestoreConfig};

/// How long a VMM may take to answer. The slowest answer is save's, which writes the memory that the
/// guest has touched: up to 3 s for a template under emulation. None waits for anything in the guest.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything a machine is made of, as open files.
#[derive(Debug)]
pub struct BootFiles {
    /// `/dev/kvm`, readable and writable.
    pub kvm: OwnedFd,
    /// The guest kernel, an x86-64 `bzImage`.
    pub kernel: OwnedFd,
    /// The guest's first root file system, with `/init`.
    pub initramfs: OwnedFd,
    /// A listening Unix stream socket: the host's side of vsock.
    pub vsock: OwnedFd,
    /// Where the serial console goes, opened for appending.
    pub serial: OwnedFd,
    /// The network namespace to live in; an empty one is made without it.
    pub netns: Option<OwnedFd>,
}

/// Everything a restored machine is made of, as open files.
#[derive(Debug)]
pub struct RestoreFiles {
    /// `/dev/kvm`, readable and writable.
    pub kvm: OwnedFd,
    /// The state of the machine, as [`Client::save`] wrote it.
    pub state: OwnedFd,
    /// Its memory, readable. Nothing is written to it.
    pub memory: OwnedFd,
    /// A listening Unix stream socket: the host's side of vsock.
    pub vsock: OwnedFd,
    /// Where the serial console goes, opened for appending.
    pub serial: OwnedFd,
    /// Which pages to have at hand, as [`Client::working_set`] wrote it.
    pub working_set: Option<OwnedFd>,
    /// The network namespace to live in; an empty one is made without it.
    pub netns: Option<OwnedFd>,
    /// The disks that the configuration names: writable ones readable and writable, others read-only.
    pub disks: Vec<OwnedFd>,
}

/// Where a machine is saved, as open files.
#[derive(Debug)]
pub struct SaveFiles {
    /// For the state: empty, writable.
    pub state: OwnedFd,
    /// For the memory: readable and writable; empty, or a clone of the file that the machine was
    /// restored from. Pages that are zero become holes.
    pub memory: OwnedFd,
    /// `/proc/PID/pagemap` of the VMM.
    pub pagemap: OwnedFd,
}

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The VMM tried and says why not.
    #[error("the VMM could not {request}: {}", chain.join(": "))]
    Refused {
        /// The verb.
        request: &'static str,
        /// What failed, then its causes.
        chain: Vec<String>,
    },
    /// The VMM's process ended before it answered; its exit code and log say why.
    #[error("the VMM ended before it answered to {request}")]
    Gone {
        /// The verb.
        request: &'static str,
    },
    /// The VMM did not answer in time. Its socket is closed now, so it will quit.
    #[error("the VMM did not answer to {request} within {} s", REPLY_TIMEOUT.as_secs())]
    Timeout {
        /// The verb.
        request: &'static str,
    },
    /// The socket failed.
    #[error("the request {request} could not be exchanged with the VMM")]
    Packet {
        /// The verb.
        request: &'static str,
        /// Why.
        #[source]
        source: PacketError,
    },
    /// The VMM gave an answer that belongs to another request.
    #[error("the VMM answered to {request} with the reply of another request")]
    WrongReply {
        /// The verb.
        request: &'static str,
    },
}

/// The runtime's end. Dropping it ends the VMM.
#[derive(Debug)]
pub struct Client {
    /// `None` after a failure that left requests and replies out of step.
    socket: Option<OwnedFd>,
}

impl Client {
    /// Takes the runtime's end of the socket pair.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
        }
    }

    /// Builds the machine and starts its guest; answers when the virtual processors run.
    pub fn boot(&mut self, config: &BootConfig, files: BootFiles) -> Result<(), ControlError> {
        let request = Request::Boot {
            config: config.clone(),
            netns: files.netns.is_some(),
        };
        let required = [
            &files.kvm,
            &files.kernel,
            &files.initramfs,
            &files.vsock,
            &files.serial,
        ];
        let descriptors: Vec<_> = required
            .into_iter()
            .chain(files.netns.as_ref())
            .map(AsFd::as_fd)
            .collect();
        self.order(&request, &descriptors)
    }

    /// Builds the machine of a snapshot and lets it run; answers when the virtual processors run.
    pub fn restore(
        &mut self,
        config: &RestoreConfig,
        files: RestoreFiles,
    ) -> Result<(), ControlError> {
        let request = Request::Restore {
            config: config.clone(),
            working_set: files.working_set.is_some(),
            netns: files.netns.is_some(),
        };
        let required = [
            &files.kvm,
            &files.state,
            &files.memory,
            &files.vsock,
            &files.serial,
        ];
        let descriptors: Vec<_> = required
            .into_iter()
            .chain(files.working_set.as_ref())
            .chain(files.netns.as_ref())
            .chain(&files.disks)
            .map(AsFd::as_fd)
            .collect();
        self.order(&request, &descriptors)
    }

    /// Writes a paused machine into files. It can be resumed or ended afterwards.
    pub fn save(&mut self, files: &SaveFiles) -> Result<(), ControlError> {
        let descriptors = [&files.state, &files.memory, &files.pagemap].map(AsFd::as_fd);
        self.order(&Request::Save, &descriptors)
    }

    /// Writes down, in the empty file `into`, which pages the machine has touched since it was
    /// restored. `pagemap` is `/proc/PID/pagemap` of the VMM.
    pub fn working_set(&mut self, into: &OwnedFd, pagemap: &OwnedFd) -> Result<(), ControlError> {
        let descriptors = [into.as_fd(), pagemap.as_fd()];
        self.order(&Request::WorkingSet, &descriptors)
    }

    /// Puts a disk (image file or block device) into an empty block slot.
    pub fn attach(&mut self, slot: u8, disk: OwnedFd, read_only: bool) -> Result<(), ControlError> {
        self.order(&Request::Attach { slot, read_only }, &[disk.as_fd()])
    }

    /// Takes the disk out of a block slot. The guest should have let go of it before.
    pub fn detach(&mut self, slot: u8) -> Result<(), ControlError> {
        self.order(&Request::Detach { slot }, &[])
    }

    /// Gives an empty network slot its wire, a tap of [`crate::tap::create`].
    pub fn attach_net(&mut self, slot: u8, tap: OwnedFd) -> Result<(), ControlError> {
        self.order(&Request::AttachNet { slot }, &[tap.as_fd()])
    }

    /// Takes the wire out of a network slot.
    pub fn detach_net(&mut self, slot: u8) -> Result<(), ControlError> {
        self.order(&Request::DetachNet { slot }, &[])
    }

    /// Stops all virtual processors.
    pub fn pause(&mut self) -> Result<(), ControlError> {
        self.order(&Request::Pause, &[])
    }

    /// Lets them run again.
    pub fn resume(&mut self) -> Result<(), ControlError> {
        self.order(&Request::Resume, &[])
    }

    /// Ends the VMM at once.
    pub fn quit(&mut self) -> Result<(), ControlError> {
        self.order(&Request::Quit, &[])
    }

    /// What the machine has done so far.
    pub fn stats(&mut self) -> Result<Stats, ControlError> {
        match self.exchange(&Request::Stats, &[])? {
            Reply::Stats(stats) => Ok(stats),
            Reply::Done | Reply::Failed { .. } => Err(ControlError::WrongReply {
                request: Request::Stats.name(),
            }),
        }
    }

    fn order(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        match self.exchange(request, descriptors)? {
            Reply::Done => Ok(()),
            Reply::Stats(_) | Reply::Failed { .. } => Err(ControlError::WrongReply {
                request: request.name(),
            }),
        }
    }

    /// Sends one request and waits for its reply. A [`Reply::Failed`] comes back as an error.
    fn exchange(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Reply, ControlError> {
        let name = request.name();
        // Only a whole exchange puts the socket back: after a lost reply the next one would
        // be taken for it.
        let socket = self
            .socket
            .take()
            .ok_or(ControlError::Gone { request: name })?;
        let reply = transact(&socket, request, descriptors).map_err(|source| match source {
            PacketError::Send(Errno::PIPE | Errno::CONNRESET) => {
                ControlError::Gone { request: name }
            }
            PacketError::Receive(Errno::AGAIN) => ControlError::Timeout { request: name },
            source => ControlError::Packet {
                request: name,
                source,
            },
        })?;
        let reply = reply.ok_or(ControlError::Gone { request: name })?;
        self.socket = Some(socket);
        match reply {
            Reply::Failed { chain } => Err(ControlError::Refused {
                request: name,
                chain,
            }),
            reply => Ok(reply),
        }
    }
}

fn transact(
    socket: &OwnedFd,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Option<Reply>, PacketError> {
    set_socket_timeout(socket, Timeout::Recv, Some(REPLY_TIMEOUT)).map_err(PacketError::Receive)?;
    packet::send(socket, request, descriptors)?;
    Ok(packet::receive(socket)?.map(|(reply, _descriptors)| reply))
}
