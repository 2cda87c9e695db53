// SPDX-License-Identifier: Apache-2.0
//! The few words between the agent and a stage: a socket that keeps packets apart. The stage blocks on its
//! end; the agent's end is non-blocking and waits in the event loop (`crate::process`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Longest error text. A path or two fit, and a packet never outgrows the socket's buffer.
const MAX_TEXT: usize = 4096;

const READY: u8 = b'R';
const FAILED: u8 = b'F';
const GO: u8 = b'G';

/// What one end says.
#[derive(Debug)]
pub enum Message {
    /// Stage: everything is prepared; with a terminal, its master side.
    Ready(Option<OwnedFd>),
    /// Stage: the set-up or the exec failed. The stage ends.
    Failed(String),
    /// Agent: become the program.
    Go,
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// The agent's end, non-blocking, and the stage's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (agent, stage) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        fcntl_setfl(&agent, OFlags::NONBLOCK)?;
        Ok((Self(agent), Self(stage)))
    }

    /// The end that was inherited.
    pub fn inherited(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message; a text that is too long loses its end.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        Self::send_to(&self.0, message)
    }

    /// As [`Channel::send`], for an end that an event loop holds.
    pub fn send_to(channel: &OwnedFd, message: &Message) -> io::Result<()> {
        let (kind, text, fd) = match message {
            Message::Ready(fd) => (READY, "", fd.as_ref()),
            Message::Failed(text) => (FAILED, &text[..text.floor_char_boundary(MAX_TEXT)], None),
            Message::Go => (GO, "", None),
        };
        let kind = [kind];
        let parts = [IoSlice::new(&kind), IoSlice::new(text.as_bytes())];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd.as_fd()]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(channel, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives one message; `None`: the other end is gone.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        Self::receive_from(&self.0)
    }

    /// As [`Channel::receive`], for an end that an event loop holds.
    pub fn receive_from(channel: &OwnedFd) -> io::Result<Option<Message>> {
        let mut bytes = [0; 1 + MAX_TEXT];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            channel,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                fd = fds.next();
            }
        }
        match bytes[..received.bytes].split_first() {
            None => Ok(None),
            Some((&READY, _)) => Ok(Some(Message::Ready(fd))),
            Some((&GO, _)) => Ok(Some(Message::Go)),
            Some((_, text)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                Ok(Some(Message::Failed(text)))
            }
        }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_with_their_descriptor() {
        let (agent, stage) = Channel::pair().unwrap();
        assert_eq!(
            agent.receive().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let null = std::fs::File::open("/dev/null").unwrap();
        stage.send(&Message::Ready(Some(null.into()))).unwrap();
        stage.send(&Message::Failed("é".repeat(5000))).unwrap();
        assert!(matches!(
            agent.receive().unwrap(),
            Some(Message::Ready(Some(_)))
        ));
        let Some(Message::Failed(text)) = agent.receive().unwrap() else {
            panic!("not a failure");
        };
        assert_eq!(text, "é".repeat(2048));
        agent.send(&Message::Go).unwrap();
        assert!(matches!(stage.receive().unwrap(), Some(Message::Go)));
        drop(agent);
        assert!(stage.receive().unwrap().is_none());
    }
}
