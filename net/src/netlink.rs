// SPDX-License-Identifier: Apache-2.0
//! rtnetlink (rtnetlink(7)) and netfilter's netlink over blocking sockets: requests go out, several in one
//! datagram, and everything that they bring comes back before the call returns.
//!
//! A socket belongs to the network namespace of the thread that opened it, for good. It is not
//! asynchronous on purpose: the kernel has answered when `send` returns, and what is left is to read it.

use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    DecodeError, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use rustix::net::RecvFlags;
use thiserror::Error;

/// Longest datagram of the kernel: a dump's parts have at most 32 KiB (`netlink_dump`).
pub(crate) const DATAGRAM: usize = 32 << 10;

/// Length of a netlink message's header, and what messages are aligned to.
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: a refusal in words.
const WORDS: u16 = 1;

/// A socket of the routing family.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
    sequence: u32,
}

/// One message to the kernel.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_*` besides REQUEST and ACK.
    pub flags: u16,
}

impl Route {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = connect(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Everything that the kernel has of one kind.
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let asked = encode(message, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.send(&asked)?;
        self.receive(self.sequence, self.sequence)
    }

    /// Sends all requests at once and waits until each is done. The answers come in their order.
    /// The kernel carries out all of them, whether or not one fails; the first failure is returned.
    pub fn exchange(
        &mut self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            datagram.extend(encode(request.message, flags, self.sequence));
        }
        if datagram.is_empty() {
            return Ok(Vec::new());
        }
        self.send(&datagram)?;
        self.receive(first, self.sequence)
    }

    fn send(&self, datagram: &[u8]) -> Result<(), NetlinkError> {
        send(&self.socket, datagram)
    }

    fn receive(&self, first: u32, last: u32) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        answers(&self.socket, first, last)
    }
}

/// A socket of netfilter.
#[derive(Debug)]
pub(crate) struct Netfilter {
    socket: Socket,
}

impl Netfilter {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let socket = connect(NETLINK_NETFILTER).map_err(NetlinkError::Open)?;
        Ok(Self { socket })
    }

    /// Sends a transaction whose messages are numbered from 0 on, and waits for its outcome. `last` is the number
    /// of the last message that asks for an acknowledgement.
    pub(crate) fn commit(&self, transaction: &[u8], last: u32) -> Result<(), NetlinkError> {
        send(&self.socket, transaction)?;
        answers::<Unread>(&self.socket, 0, last).map(|_| ())
    }
}

/// An answer that matters only by being there.
struct Unread;

impl NetlinkDeserializable for Unread {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

fn send(socket: &Socket, datagram: &[u8]) -> Result<(), NetlinkError> {
    match socket.send(datagram, 0) {
        Ok(sent) if sent == datagram.len() => Ok(()),
        Ok(_) => Err(NetlinkError::Send(io::ErrorKind::WriteZero.into())),
        Err(source) => Err(NetlinkError::Send(source)),
    }
}

/// Reads until the last of these requests is acknowledged or its dump is over.
fn answers<A: NetlinkDeserializable>(
    socket: &Socket,
    first: u32,
    last: u32,
) -> Result<Vec<A>, NetlinkError> {
    let mut answers = Vec::new();
    let mut failed = None;
    loop {
        let datagram = match receive(socket) {
            Ok(datagram) => datagram,
            // There is no more: a transaction that was refused as a whole has no other answer.
            Err(source) => return Err(failed.unwrap_or(NetlinkError::Receive(source))),
        };
        for message in messages(&datagram) {
            let message =
                NetlinkMessage::<A>::deserialize(message?).map_err(NetlinkError::Decode)?;
            let sequence = message.header.sequence_number;
            // What an earlier call gave up on is not an answer to this one.
            if sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                continue;
            }
            let ended = match message.payload {
                NetlinkPayload::InnerMessage(answer) => {
                    answers.push(answer);
                    false
                }
                NetlinkPayload::Error(answer) => {
                    if let Some(refused) = refusal(&answer) {
                        failed.get_or_insert(refused);
                    }
                    true
                }
                NetlinkPayload::Done(done) if done.code != 0 => {
                    let source = io::Error::from_raw_os_error(done.code.saturating_neg());
                    failed.get_or_insert(NetlinkError::Refused {
                        words: String::new(),
                        source,
                    });
                    true
                }
                NetlinkPayload::Done(_) => true,
                _ => false,
            };
            if ended && sequence == last {
                return failed.map_or(Ok(answers), Err);
            }
        }
    }
}

/// A socket that talks to the kernel and reads its refusals in words.
fn connect(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    // Nobody but the kernel (port 0) can send to a connected one.
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_cap_ack(true)?;
    socket.set_ext_ack(true)?;
    Ok(socket)
}

/// One datagram, whole. The kernel has answered when `send` is over, so there is no waiting.
fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    // With TRUNC the true length is told.
    let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let mut datagram = Vec::with_capacity(DATAGRAM);
    let length = socket.recv(&mut datagram, flags.bits().cast_signed())?;
    if length > datagram.len() {
        return Err(io::Error::other("a message of the kernel is too long"));
    }
    Ok(datagram)
}

/// The messages of a datagram.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<&[u8], NetlinkError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = match NetlinkBuffer::new_checked(&rest) {
            Ok(message) => message.length() as usize,
            Err(source) => {
                rest = &[];
                return Some(Err(NetlinkError::Decode(source)));
            }
        };
        let message = &rest[..length];
        rest = &rest[length.next_multiple_of(ALIGNMENT).min(rest.len())..];
        Some(Ok(message))
    })
}

fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let length = message.buffer_len();
    let mut bytes = vec![0; length.next_multiple_of(ALIGNMENT)];
    message.serialize(&mut bytes[..length]);
    bytes
}

/// An error message, if it is one and no acknowledgement.
fn refusal(answer: &ErrorMessage) -> Option<NetlinkError> {
    answer.code?;
    let attributes = answer.header.get(HEADER..).unwrap_or_default();
    let words = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == WORDS)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).into_owned());
    Some(NetlinkError::Refused {
        words: words.map_or_else(String::new, |words| {
            format!(" ({})", words.trim_end_matches('\0'))
        }),
        source: answer.to_io(),
    })
}

/// Why the kernel could not be asked, or what it answered.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("a netlink socket could not be opened")]
    Open(#[source] io::Error),
    /// The request did not get to the kernel.
    #[error("the kernel could not be asked")]
    Send(#[source] io::Error),
    /// The answer did not get here.
    #[error("the kernel's answer could not be read")]
    Receive(#[source] io::Error),
    /// The answer makes no sense.
    #[error("the kernel's answer was not understood")]
    Decode(#[source] DecodeError),
    /// The kernel said no.
    #[error("the kernel refused{words}")]
    Refused {
        /// In the kernel's words, in parentheses, where it has some.
        words: String,
        /// Its error number.
        source: io::Error,
    },
}

impl NetlinkError {
    /// The number of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
