// SPDX-License-Identifier: Apache-2.0
//! One request to the kernel's network after the other (rtnetlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// An acknowledgement repeats the request; none here is longer.
const ANSWER: usize = 4096;

/// Longest datagram of a dump (`netlink_dump`), and what messages in one are aligned to.
const DUMP: usize = 32 << 10;
const ALIGNMENT: usize = 4;

/// A socket of the routing family.
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None, // NETLINK_ROUTE is protocol 0
        )?;
        Ok(Self { socket })
    }

    /// The addresses of an interface.
    pub(super) fn addresses(&mut self, interface: u32) -> io::Result<Vec<AddressMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let asked = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.send(header, asked)?;
        let mut found = Vec::new();
        loop {
            let mut datagram = vec![0; DUMP];
            let (_, len) = recv(&self.socket, &mut datagram, RecvFlags::DONTWAIT)?;
            let mut rest = datagram.get(..len).unwrap_or_default();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
                let message = message.map_err(io::Error::other)?;
                let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
                rest = rest
                    .get(length.next_multiple_of(ALIGNMENT)..)
                    .unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address))
                        if address.header.index == interface =>
                    {
                        found.push(address);
                    }
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(answer) => return Err(answer.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&self, header: NetlinkHeader, message: RouteNetlinkMessage) -> io::Result<()> {
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Sends a request and reads its acknowledgement, which is there when the request was taken.
    pub(super) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        self.send(header, message)?;
        let mut answer = vec![0; ANSWER];
        let (_, len) = recv(&self.socket, &mut answer, RecvFlags::DONTWAIT)?;
        let answer = answer.get(..len).unwrap_or_default();
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer);
        match answer.map_err(io::Error::other)?.payload {
            NetlinkPayload::Error(answer) if answer.code.is_none() => Ok(()),
            NetlinkPayload::Error(answer) => Err(answer.to_io()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
