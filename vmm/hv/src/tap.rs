// SPDX-License-Identifier: Apache-2.0
//! Tap interfaces (Documentation/networking/tuntap.rst): Ethernet whose wire is a file descriptor.
//!
//! Not KVM's, but its requests have no safe interface either, and this is the room for that.

// UNSAFETY: makes ioctl requests with structures of this file.
#![allow(
    unsafe_code,
    reason = "the requests of a tap device have no safe interface"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_uint, c_ulong};

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// Length of the header in front of each frame: `struct virtio_net_hdr_v1`.
const HEADER_BYTES: c_int = 12;

const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;

const TUN_F_CSUM: c_uint = 0x01;
const TUN_F_TSO4: c_uint = 0x02;
const TUN_F_TSO6: c_uint = 0x04;
const TUN_F_TSO_ECN: c_uint = 0x08;

/// Longest name of an interface, its end mark included.
const NAME_BYTES: usize = libc::IFNAMSIZ;

/// A tap interface. It lives as long as its descriptor.
#[derive(Debug)]
pub struct Tap(OwnedFd);

/// What the receiver of a frame can do by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOffload {
    /// Checksums.
    pub checksum: bool,
    /// Cutting of TCP over IPv4.
    pub tso4: bool,
    /// Cutting of TCP over IPv6.
    pub tso6: bool,
    /// Cutting of TCP with congestion marks.
    pub ecn: bool,
}

/// `struct ifreq` as TUNSETIFF reads it: the name, then the flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

impl Tap {
    /// Makes an interface of this name in the network namespace of the calling thread, down and
    /// without an address. The name must be free. Needs `CAP_NET_ADMIN` there.
    pub fn create(name: &str) -> io::Result<Self> {
        let mut request = InterfaceRequest {
            name: [0; NAME_BYTES],
            flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL,
            rest: [0; 22],
        };
        let fits = name.len() < NAME_BYTES && !name.is_empty();
        if !fits {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let file = open()?;
        const { assert!(mem::size_of::<InterfaceRequest>() == mem::size_of::<libc::ifreq>()) };
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size and start this has.
        answer(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        Ok(Self(file.into()))
    }

    /// Takes a descriptor that [`Tap::create`] made, in whatever process, and sets the length of its headers.
    /// Fails if it is no tap's.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let bytes = HEADER_BYTES;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        answer(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const bytes) })?;
        Ok(Self(fd))
    }

    /// Says what frames that are read may leave undone.
    pub fn set_offload(&self, offload: TapOffload) -> io::Result<()> {
        let bit = |wanted, bit: c_uint| if wanted { bit } else { 0 };
        let bits = bit(offload.checksum, TUN_F_CSUM)
            | bit(offload.tso4, TUN_F_TSO4)
            | bit(offload.tso6, TUN_F_TSO6)
            | bit(offload.ecn, TUN_F_TSO_ECN);
        // SAFETY: TUNSETOFFLOAD takes its bits in place of a pointer.
        answer(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETOFFLOAD, c_ulong::from(bits)) })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.0
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
}

fn answer(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for name in ["", "sixteen-letters-"] {
            let error = Tap::create(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn only_a_tap_is_a_tap() {
        let file = File::open("/dev/null").unwrap();
        assert!(Tap::from_fd(file.into()).is_err());
    }
}
