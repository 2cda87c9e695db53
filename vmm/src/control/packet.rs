// SPDX-License-Identifier: Apache-2.0
//! One message and its descriptors, to and from a sequenced-packet socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::config::BLOCK_SLOTS;

/// Longest packet either side sends. The largest message carries two kernel command lines.
pub const MAX_PACKET: usize = 64 * 1024;

/// Most descriptors with one packet: what `restore` takes.
pub const MAX_DESCRIPTORS: usize = 7 + BLOCK_SLOTS as usize;

/// What can go wrong with a packet.
#[derive(Debug, Error)]
pub enum PacketError {
    /// The message does not fit.
    #[error("a control message has {len} bytes, at most {MAX_PACKET} fit")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The socket would not take it.
    #[error("a control message could not be sent")]
    Send(#[source] Errno),
    /// The socket would not give one.
    #[error("no control message could be received")]
    Receive(#[source] Errno),
    /// The other side sent more than fits.
    #[error(
        "a control message was longer than {MAX_PACKET} bytes or had more than {MAX_DESCRIPTORS} descriptors"
    )]
    Truncated,
    /// A message could not be written as JSON.
    #[error("a control message could not be encoded")]
    Encode(#[source] serde_json::Error),
    /// A message is not one of ours.
    #[error("a control message could not be understood; are both programs of one version?")]
    Decode(#[source] serde_json::Error),
}

/// Sends one message with its descriptors.
pub(super) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    let bytes = serde_json::to_vec(message).map_err(PacketError::Encode)?;
    if bytes.len() > MAX_PACKET {
        return Err(PacketError::TooLong { len: bytes.len() });
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(PacketError::Truncated);
    }
    let parts = [IoSlice::new(&bytes)];
    // NOSIGNAL: the death of the other side is an error to handle, not a signal.
    retry_on_intr(|| sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))
        .map_err(PacketError::Send)?;
    Ok(())
}

/// Receives one message with its descriptors; `None` when the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
    let mut bytes = vec![0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(PacketError::Receive(errno)),
            Ok(received) => break received,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    if received.flags.intersects(cut) {
        return Err(PacketError::Truncated);
    }
    // Neither side sends empty packets, so no bytes means the end.
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]).map_err(PacketError::Decode)?;
    Ok(Some((message, descriptors)))
}
