// SPDX-License-Identifier: Apache-2.0
//! A tap interface as the wire of a network device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cube_hv::{Tap, TapOffload};
use cube_virtio::net::{Link, Offload};

/// Makes a tap interface in the network namespace of the calling thread, down and without an
/// address, for [`Client::attach_net`](crate::control::Client::attach_net). It goes with its last
/// descriptor. Needs `CAP_NET_ADMIN` there; `AlreadyExists` or `ResourceBusy`: the name is taken.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    Tap::create(name).map(Into::into)
}

/// The device's view of it.
#[derive(Debug)]
pub(crate) struct TapLink(Tap);

impl TapLink {
    /// Takes the descriptor of a tap.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Tap::from_fd(fd).map(Self)
    }
}

impl AsFd for TapLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link for TapLink {
    fn set_offload(&self, offload: Offload) -> io::Result<()> {
        let Offload {
            checksum,
            tso4,
            tso6,
            ecn,
        } = offload;
        self.0.set_offload(TapOffload {
            checksum,
            tso4,
            tso6,
            ecn,
        })
    }
}
