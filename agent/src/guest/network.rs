// SPDX-License-Identifier: Apache-2.0
//! The loopback interface. Everything else about the network arrives from the host.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// The loopback interface is the first of every network namespace.
const LOOPBACK_INDEX: i32 = 1;

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const IFF_UP: u32 = 1;
const NLMSG_ERROR: u16 = 2;

/// Brings it up (rtnetlink(7)).
pub fn loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is protocol 0
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(
        &socket,
        &set_up(LOOPBACK_INDEX),
        SendFlags::empty(),
        &kernel,
    )?;
    let mut answer = [0; 64];
    let (_, len) = recv(&socket, &mut answer, RecvFlags::empty())?;
    acknowledged(answer.get(..len).unwrap_or_default())
}

/// `struct nlmsghdr` and `struct ifinfomsg` that change nothing but the flag.
fn set_up(index: i32) -> Vec<u8> {
    const LEN: u32 = 32;
    let mut message = Vec::new();
    message.extend(LEN.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    message.extend([0; 4]); // family, padding, type
    message.extend(index.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // flags
    message.extend(IFF_UP.to_ne_bytes()); // those to change
    message
}

/// `struct nlmsgerr`: a negative error number, or 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let field = |at: usize, len: usize| answer.get(at..at + len);
    let kind = field(4, 2).and_then(|bytes| bytes.try_into().ok());
    let error = field(16, 4).and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), error.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(-error)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_length_that_it_says() {
        let message = set_up(1);
        assert_eq!(message.len(), 32);
        assert_eq!(&message[..4], 32_u32.to_ne_bytes());
    }

    #[test]
    fn an_answer_is_read_for_its_error() {
        let answer = |error: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            acknowledged(&bytes)
        };
        assert!(answer(0).is_ok());
        assert_eq!(answer(-libc::EPERM).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledged(&[]).is_err());
    }
}
