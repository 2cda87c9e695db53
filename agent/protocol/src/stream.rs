// SPDX-License-Identifier: Apache-2.0
//! The opening of a stdio stream: who the bytes belong to.
//!
//! The host connects to [`STREAM_PORT`](crate::STREAM_PORT), sends one frame, reads one answer byte, and
//! from then on the connection is raw bytes in one direction:
//!
//! ```text
//! host  -> guest   body length: u16, big-endian
//!                  body:  stream: u8 (0 stdin, 1 stdout, 2 stderr)
//!                         container id: u8 length, UTF-8 bytes (1 to 255)
//!                         exec id:      u8 length, UTF-8 bytes (0 for the container's first process)
//! guest -> host    answer: u8 (0 attached, 1 refused; the agent's log says why)
//! stdin            host -> guest; the host's half-close is the process's end of input
//! stdout, stderr   guest -> host; the agent half-closes after the last byte
//! ```
//!
//! With a terminal, stdin and stdout both speak to its master side and there is no stderr.
//! Pure encoding over byte slices and `std::io`; an asynchronous reader takes the two length bytes through
//! [`StreamHello::body_len`] and the body through [`StreamHello::decode_body`].

use std::io::{self, Read, Write};

use thiserror::Error;

/// Longest container or exec id. containerd allows 76 bytes and clients use 64; one length byte carries 255.
pub const MAX_ID_LEN: usize = u8::MAX as usize;

/// Longest body of a hello: the stream and two ids with their lengths.
pub const MAX_HELLO_LEN: usize = 1 + 2 * (1 + MAX_ID_LEN);

/// Shortest body: the stream, an id of one byte and an empty one.
const MIN_HELLO_LEN: usize = 4;

/// One of a process's three standard streams.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stdio {
    /// Host to guest.
    Stdin,
    /// Guest to host; with a terminal everything it prints.
    Stdout,
    /// Guest to host.
    Stderr,
}

/// First frame on a stream connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamHello {
    /// Container that the process belongs to.
    pub container_id: String,
    /// Empty for the container's first process.
    pub exec_id: String,
    /// Which of its streams.
    pub stream: Stdio,
}

/// The agent's only reply to a hello.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamAnswer {
    /// Raw bytes follow.
    Attached,
    /// No such process, no such stream, or somebody else has it; the connection ends.
    Refused,
}

/// Why bytes are not a hello, or a hello cannot become bytes.
#[derive(Debug, Error)]
pub enum HelloError {
    /// An id that does not fit its length byte.
    #[error("{what} of {len} bytes is longer than {MAX_ID_LEN}")]
    IdTooLong {
        /// Which id.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// Every container has a name.
    #[error("container id is empty")]
    NoContainer,
    /// The announced length cannot be that of a hello.
    #[error("stream hello of {len} bytes is not between {MIN_HELLO_LEN} and {MAX_HELLO_LEN}")]
    Length {
        /// What the peer announced.
        len: usize,
    },
    /// The lengths inside do not add up to the length outside.
    #[error("stream hello ends at the wrong place")]
    Framing,
    /// Not 0, 1 or 2.
    #[error("stream hello names stream {code}, which does not exist")]
    Stream {
        /// The byte found.
        code: u8,
    },
    /// An id that is not text.
    #[error("{what} is not UTF-8")]
    NotText {
        /// Which id.
        what: &'static str,
    },
    /// Neither 0 nor 1.
    #[error("stream answer is {code}, which is neither attached (0) nor refused (1)")]
    Answer {
        /// The byte found.
        code: u8,
    },
    /// The connection failed.
    #[error("stream connection failed")]
    Io(#[from] io::Error),
}

impl StreamHello {
    /// The whole frame, length included.
    pub fn encode(&self) -> Result<Vec<u8>, HelloError> {
        if self.container_id.is_empty() {
            return Err(HelloError::NoContainer);
        }
        let mut body = vec![self.stream.code()];
        push_id(&mut body, "container id", &self.container_id)?;
        push_id(&mut body, "exec id", &self.exec_id)?;
        let len = u16::try_from(body.len()).expect("MAX_HELLO_LEN fits sixteen bits");
        let mut frame = len.to_be_bytes().to_vec();
        frame.append(&mut body);
        Ok(frame)
    }

    /// Length of the body that follows these first two bytes of the frame.
    pub fn body_len(header: [u8; 2]) -> Result<usize, HelloError> {
        let len = usize::from(u16::from_be_bytes(header));
        if (MIN_HELLO_LEN..=MAX_HELLO_LEN).contains(&len) {
            Ok(len)
        } else {
            Err(HelloError::Length { len })
        }
    }

    /// The frame's body, as long as [`StreamHello::body_len`] said.
    pub fn decode_body(body: &[u8]) -> Result<Self, HelloError> {
        let (&code, rest) = body.split_first().ok_or(HelloError::Framing)?;
        let (container_id, rest) = take_id(rest, "container id")?;
        let (exec_id, rest) = take_id(rest, "exec id")?;
        if !rest.is_empty() {
            return Err(HelloError::Framing);
        }
        if container_id.is_empty() {
            return Err(HelloError::NoContainer);
        }
        Ok(Self {
            container_id,
            exec_id,
            stream: Stdio::from_code(code)?,
        })
    }

    /// Sends the frame.
    pub fn write_to(&self, mut peer: impl Write) -> Result<(), HelloError> {
        Ok(peer.write_all(&self.encode()?)?)
    }

    /// Receives one frame and not a byte more.
    pub fn read_from(mut peer: impl Read) -> Result<Self, HelloError> {
        let mut header = [0; 2];
        peer.read_exact(&mut header)?;
        let mut body = vec![0; Self::body_len(header)?];
        peer.read_exact(&mut body)?;
        Self::decode_body(&body)
    }
}

impl StreamAnswer {
    /// The byte on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Attached => 0,
            Self::Refused => 1,
        }
    }

    /// What the byte on the wire means.
    pub fn from_code(code: u8) -> Result<Self, HelloError> {
        match code {
            0 => Ok(Self::Attached),
            1 => Ok(Self::Refused),
            code => Err(HelloError::Answer { code }),
        }
    }
}

impl Stdio {
    fn code(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, HelloError> {
        match code {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            code => Err(HelloError::Stream { code }),
        }
    }
}

fn push_id(body: &mut Vec<u8>, what: &'static str, id: &str) -> Result<(), HelloError> {
    let len = u8::try_from(id.len()).map_err(|_| HelloError::IdTooLong {
        what,
        len: id.len(),
    })?;
    body.push(len);
    body.extend_from_slice(id.as_bytes());
    Ok(())
}

fn take_id<'a>(bytes: &'a [u8], what: &'static str) -> Result<(String, &'a [u8]), HelloError> {
    let (&len, rest) = bytes.split_first().ok_or(HelloError::Framing)?;
    let (id, rest) = rest
        .split_at_checked(usize::from(len))
        .ok_or(HelloError::Framing)?;
    let id = std::str::from_utf8(id).map_err(|_| HelloError::NotText { what })?;
    Ok((id.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(container_id: &str, exec_id: &str, stream: Stdio) -> StreamHello {
        StreamHello {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            stream,
        }
    }

    fn streams() -> impl Strategy<Value = Stdio> {
        prop_oneof![Just(Stdio::Stdin), Just(Stdio::Stdout), Just(Stdio::Stderr)]
    }

    fn decode(frame: &[u8]) -> Result<StreamHello, HelloError> {
        StreamHello::read_from(frame)
    }

    #[test]
    fn the_bytes_on_the_wire_never_change() {
        let first = hello("web", "", Stdio::Stdin).encode().unwrap();
        assert_eq!(first, b"\x00\x06\x00\x03web\x00");
        let further = hello("web", "sh-1", Stdio::Stderr).encode().unwrap();
        assert_eq!(further, b"\x00\x0a\x02\x03web\x04sh-1");
        assert_eq!(StreamAnswer::Attached.code(), 0);
        assert_eq!(StreamAnswer::Refused.code(), 1);
    }

    #[test]
    fn a_reader_leaves_the_bytes_after_the_hello() {
        let mut bytes = hello("web", "", Stdio::Stdin).encode().unwrap();
        bytes.extend_from_slice(b"data");
        let mut rest = bytes.as_slice();
        StreamHello::read_from(&mut rest).unwrap();
        assert_eq!(rest, b"data");
    }

    #[test]
    fn ids_that_do_not_fit_are_refused() {
        let long = "x".repeat(MAX_ID_LEN + 1);
        let name = hello(&long, "", Stdio::Stdin).encode();
        assert!(matches!(name, Err(HelloError::IdTooLong { len: 256, .. })));
        let exec = hello("web", &long, Stdio::Stdin).encode();
        assert!(matches!(exec, Err(HelloError::IdTooLong { len: 256, .. })));
        let none = hello("", "", Stdio::Stdin).encode();
        assert!(matches!(none, Err(HelloError::NoContainer)));
    }

    #[test]
    fn malformed_frames_name_their_fault() {
        type Check = fn(&HelloError) -> bool;
        let table: [(&[u8], Check); 8] = [
            (b"\x00\x03\x00\x00\x00", |e| {
                matches!(e, HelloError::Length { len: 3 })
            }),
            (b"\xff\xff", |e| {
                matches!(e, HelloError::Length { len: 65535 })
            }),
            (b"\x00\x05\x00\x00\x01a", |e| matches!(e, HelloError::Io(_))),
            (b"\x00\x04\x00\x00\x01a", |e| {
                matches!(e, HelloError::NoContainer)
            }),
            (b"\x00\x04\x00\x09ab", |e| matches!(e, HelloError::Framing)),
            (b"\x00\x05\x00\x01a\x00!", |e| {
                matches!(e, HelloError::Framing)
            }),
            (b"\x00\x04\x03\x01a\x00", |e| {
                matches!(e, HelloError::Stream { code: 3 })
            }),
            (b"\x00\x04\x00\x01\xff\x00", |e| {
                matches!(e, HelloError::NotText { .. })
            }),
        ];
        for (frame, expected) in table {
            let error = decode(frame).unwrap_err();
            assert!(expected(&error), "{frame:?} gave {error:?}");
        }
        assert!(StreamAnswer::from_code(2).is_err());
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(container in "[a-z0-9_.-]{1,255}", exec in "\\PC{0,60}", stream in streams()) {
            let hello = hello(&container, &exec, stream);
            prop_assert_eq!(decode(&hello.encode().unwrap()).unwrap(), hello);
        }

        #[test]
        fn any_bytes_decode_or_fail_and_what_decodes_is_canonical(frame in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(hello) = decode(&frame) {
                let again = hello.encode().unwrap();
                prop_assert_eq!(&frame[..again.len()], &again[..]);
            }
        }
    }
}
