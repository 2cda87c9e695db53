// SPDX-License-Identifier: Apache-2.0
//! The VMM's end of the control socket: turns packets into [`Call`]s that cannot be
//! incomplete, and sends the replies.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use thiserror::Error;

use super::client::{BootFiles, RestoreFiles, SaveFiles};
use super::message::{Reply, Request};
use super::packet::{self, PacketError};
use crate::config::{BootConfig, ConfigError, NetSlot, RestoreConfig, Shape, Slot};

/// A request with its descriptors in place and its numbers checked.
#[derive(Debug)]
pub enum Call {
    /// Build and start the machine.
    Boot {
        /// What was asked.
        config: BootConfig,
        /// Its size, checked.
        shape: Shape,
        /// What it is made of.
        files: BootFiles,
    },
    /// Build the machine of a snapshot and let it run.
    Restore {
        /// What was asked.
        config: RestoreConfig,
        /// What it is made of.
        files: RestoreFiles,
    },
    /// Write the paused machine.
    Save {
        /// Where to.
        files: SaveFiles,
    },
    /// Write which pages were touched.
    WorkingSet {
        /// Where to.
        into: OwnedFd,
        /// Where it is known.
        pagemap: OwnedFd,
    },
    /// Put a disk into a slot.
    Attach {
        /// The slot.
        slot: Slot,
        /// The disk.
        disk: OwnedFd,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// Take a disk out.
    Detach {
        /// The slot.
        slot: Slot,
    },
    /// Give a network slot its wire.
    AttachNet {
        /// The slot.
        slot: NetSlot,
        /// The wire.
        tap: OwnedFd,
    },
    /// Take it away.
    DetachNet {
        /// The slot.
        slot: NetSlot,
    },
    /// Stop the processors.
    Pause,
    /// Let them run.
    Resume,
    /// Report.
    Stats,
    /// End the process.
    Quit,
}

/// Why a packet is not a call. The requester is told; the machine goes on.
#[derive(Debug, Error)]
pub enum CallError {
    /// Descriptors are missing or left over.
    #[error("the request {request} came with {found} descriptors instead of {expected}")]
    Descriptors {
        /// The verb.
        request: &'static str,
        /// How many came.
        found: usize,
        /// How many it takes.
        expected: usize,
    },
    /// A number or text in it is out of its limits.
    #[error("the request {request} asks for something impossible")]
    Config {
        /// The verb.
        request: &'static str,
        /// Which.
        #[source]
        source: ConfigError,
    },
}

/// The VMM's end.
#[derive(Debug)]
pub struct Server {
    socket: OwnedFd,
}

impl Server {
    /// Takes the VMM's end of the socket pair.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Waits for one request. `None` means that the runtime is gone. The outer error is the
    /// socket's and final, the inner one is the request's and goes into a reply.
    pub fn receive(&mut self) -> Result<Option<Result<Call, CallError>>, PacketError> {
        let packet = packet::receive::<Request>(&self.socket)?;
        Ok(packet.map(|(request, descriptors)| call(request, descriptors)))
    }

    /// Answers the last request.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), PacketError> {
        packet::send(&self.socket, reply, &[])
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn call(request: Request, descriptors: Vec<OwnedFd>) -> Result<Call, CallError> {
    let name = request.name();
    let refused = |source| CallError::Config {
        request: name,
        source,
    };
    match request {
        Request::Boot { config, netns } => {
            let (required, [netns]) = split(name, descriptors, [netns])?;
            let [kvm, kernel, initramfs, vsock, serial] = required;
            let shape = config.check().map_err(refused)?;
            let files = BootFiles {
                kvm,
                kernel,
                initramfs,
                vsock,
                serial,
                netns,
            };
            Ok(Call::Boot {
                config,
                shape,
                files,
            })
        }
        Request::Restore {
            config,
            working_set,
            netns,
        } => {
            let mut descriptors = descriptors;
            let fixed = descriptors.len().saturating_sub(config.disks.len());
            let disks = descriptors.split_off(fixed);
            let (required, optional) = split(name, descriptors, [working_set, netns])?;
            let [kvm, state, memory, vsock, serial] = required;
            let [working_set, netns] = optional;
            config.check().map_err(refused)?;
            let files = RestoreFiles {
                kvm,
                state,
                memory,
                vsock,
                serial,
                working_set,
                netns,
                disks,
            };
            Ok(Call::Restore { config, files })
        }
        Request::Save => {
            let [state, memory, pagemap] = exactly(name, descriptors)?;
            let files = SaveFiles {
                state,
                memory,
                pagemap,
            };
            Ok(Call::Save { files })
        }
        Request::WorkingSet => {
            let [into, pagemap] = exactly(name, descriptors)?;
            Ok(Call::WorkingSet { into, pagemap })
        }
        Request::Attach { slot, read_only } => {
            let [disk] = exactly(name, descriptors)?;
            let slot = Slot::new(slot).map_err(refused)?;
            Ok(Call::Attach {
                slot,
                disk,
                read_only,
            })
        }
        Request::Detach { slot } => {
            let [] = exactly(name, descriptors)?;
            let slot = Slot::new(slot).map_err(refused)?;
            Ok(Call::Detach { slot })
        }
        Request::AttachNet { slot } => {
            let [tap] = exactly(name, descriptors)?;
            let slot = NetSlot::new(slot).map_err(refused)?;
            Ok(Call::AttachNet { slot, tap })
        }
        Request::DetachNet { slot } => {
            let [] = exactly(name, descriptors)?;
            let slot = NetSlot::new(slot).map_err(refused)?;
            Ok(Call::DetachNet { slot })
        }
        Request::Pause => exactly(name, descriptors).map(|[]| Call::Pause),
        Request::Resume => exactly(name, descriptors).map(|[]| Call::Resume),
        Request::Stats => exactly(name, descriptors).map(|[]| Call::Stats),
        Request::Quit => exactly(name, descriptors).map(|[]| Call::Quit),
    }
}

/// The descriptors that a request always has, and behind them those that it says it has.
fn split<const N: usize, const M: usize>(
    request: &'static str,
    descriptors: Vec<OwnedFd>,
    there: [bool; M],
) -> Result<([OwnedFd; N], [Option<OwnedFd>; M]), CallError> {
    let expected = N + there.into_iter().filter(|there| *there).count();
    let found = descriptors.len();
    let wrong = CallError::Descriptors {
        request,
        found,
        expected,
    };
    let mut required = descriptors;
    let mut optional = required.split_off(N.min(found)).into_iter();
    match required.try_into() {
        Ok(required) if found == expected => Ok((
            required,
            there.map(|there| there.then(|| optional.next()).flatten()),
        )),
        _ => Err(wrong),
    }
}

fn exactly<const N: usize>(
    request: &'static str,
    descriptors: Vec<OwnedFd>,
) -> Result<[OwnedFd; N], CallError> {
    descriptors
        .try_into()
        .map_err(|found: Vec<OwnedFd>| CallError::Descriptors {
            request,
            found: found.len(),
            expected: N,
        })
}
