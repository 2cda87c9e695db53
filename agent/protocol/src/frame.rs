// SPDX-License-Identifier: Apache-2.0
//! Frames: what a connection to [`PLANE_PORT`](crate::PLANE_PORT) consists of, in both directions.
//!
//! ```text
//! kind: u8 (0 message, 1 output, 2 errors, 3 end)   length: u32, big-endian   payload
//! ```
//!
//! The first frame is the host's: a message with an [`Opening`](crate::v1::plane::Opening). What follows is
//! told with [`Answer`](crate::v1::plane::Answer) in `proto/plane.proto`. Nothing here reads or writes: a side
//! sends what [`encode`] gives, and puts what it received into [`Received`].

use thiserror::Error;

/// Bytes before a payload.
pub const HEADER_LEN: usize = 5;

/// Longest payload. Whoever receives allocates no more than this for a frame; a command with its
/// environment has to fit, and several chunks of a file may be on their way.
pub const MAX_PAYLOAD_LEN: usize = 1 << 20;

/// Room to receive into when nothing says how much there will be: most frames are a few lines of text.
const SMALL: usize = 4096;

/// What a payload is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FrameKind {
    /// A protobuf message; which one follows from what was said before.
    Message,
    /// Bytes of a file, of a process's standard output, or of its terminal.
    Output,
    /// Bytes of a process's standard error.
    Errors,
    /// Nothing follows from this side. Its payload is empty.
    End,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: FrameKind,
    /// Bytes of payload.
    pub len: usize,
}

/// Why bytes do not begin a frame, or a payload does not fit into one.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum FrameError {
    /// Not 0 to 3.
    #[error("a frame has kind {code}, which does not exist")]
    Kind {
        /// The byte found.
        code: u8,
    },
    /// More than anybody sends.
    #[error("a frame of {len} bytes is longer than {MAX_PAYLOAD_LEN}")]
    TooLong {
        /// The length announced, or wanted.
        len: usize,
    },
    /// An end has no payload.
    #[error("an end frame announces {len} bytes")]
    Payload {
        /// The length announced.
        len: usize,
    },
}

impl FrameHeader {
    /// Of a frame with this payload.
    pub fn new(kind: FrameKind, payload: &[u8]) -> Result<Self, FrameError> {
        Self {
            kind,
            len: payload.len(),
        }
        .checked()
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let len = u32::try_from(self.len).expect("MAX_PAYLOAD_LEN fits 32 bits");
        let [a, b, c, d] = len.to_be_bytes();
        [self.kind.code(), a, b, c, d]
    }

    /// What the bytes on the wire mean.
    pub fn decode([code, a, b, c, d]: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let len = u32::from_be_bytes([a, b, c, d]);
        Self {
            kind: FrameKind::from_code(code)?,
            len: usize::try_from(len).unwrap_or(usize::MAX),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, FrameError> {
        match self {
            Self { len, .. } if len > MAX_PAYLOAD_LEN => Err(FrameError::TooLong { len }),
            Self {
                kind: FrameKind::End,
                len: len @ 1..,
            } => Err(FrameError::Payload { len }),
            header => Ok(header),
        }
    }
}

/// A whole frame, as it is sent.
pub fn encode(kind: FrameKind, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let header = FrameHeader::new(kind, payload)?.encode();
    Ok([header.as_slice(), payload].concat())
}

/// Bytes that were received and are not frames yet.
#[derive(Debug, Default)]
pub struct Received(Vec<u8>);

impl Received {
    /// Where to append what is received next: with room for the rest of a frame that has begun, and never
    /// for more than that and a little.
    pub fn room(&mut self) -> &mut Vec<u8> {
        let missing = match self.header() {
            Some(Ok(header)) => (HEADER_LEN + header.len).saturating_sub(self.0.len()),
            Some(Err(_)) | None => 0,
        };
        self.0.reserve(missing.max(SMALL));
        &mut self.0
    }

    /// Takes the next frame, if all of it is there.
    pub fn take(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, FrameError> {
        let Some(header) = self.header().transpose()? else {
            return Ok(None);
        };
        let end = HEADER_LEN + header.len;
        if self.0.len() < end {
            return Ok(None);
        }
        let payload = self.0[HEADER_LEN..end].to_vec();
        self.0.drain(..end);
        Ok(Some((header.kind, payload)))
    }

    /// Whether a frame has begun.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn header(&self) -> Option<Result<FrameHeader, FrameError>> {
        let header = self.0.first_chunk::<HEADER_LEN>()?;
        Some(FrameHeader::decode(*header))
    }
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Message => 0,
            Self::Output => 1,
            Self::Errors => 2,
            Self::End => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self, FrameError> {
        match code {
            0 => Ok(Self::Message),
            1 => Ok(Self::Output),
            2 => Ok(Self::Errors),
            3 => Ok(Self::End),
            code => Err(FrameError::Kind { code }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_on_the_wire_never_change() {
        let header = FrameHeader::new(FrameKind::Errors, b"abc").unwrap();
        assert_eq!(header.encode(), [2, 0, 0, 0, 3]);
        let end = FrameHeader::new(FrameKind::End, b"").unwrap();
        assert_eq!(end.encode(), [3, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = MAX_PAYLOAD_LEN + 1;
        for (bytes, expected) in [
            ([4, 0, 0, 0, 0], FrameError::Kind { code: 4 }),
            ([1, 0, 0x10, 0, 1], FrameError::TooLong { len: long }),
            ([3, 0, 0, 0, 1], FrameError::Payload { len: 1 }),
        ] {
            assert_eq!(FrameHeader::decode(bytes), Err(expected));
        }
        let payload = vec![0; long];
        assert!(FrameHeader::new(FrameKind::Output, &payload).is_err());
    }

    proptest! {
        #[test]
        fn what_decodes_is_canonical_and_within_the_bound(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = FrameHeader::decode(bytes) {
                prop_assert!(header.len <= MAX_PAYLOAD_LEN);
                prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn frames_arrive_whole_and_in_order_however_they_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..8),
            cut in 1_usize..40,
        ) {
            let sent: Vec<u8> = payloads.iter().flat_map(|p| encode(FrameKind::Output, p).unwrap()).collect();
            let (mut received, mut frames) = (Received::default(), Vec::new());
            for part in sent.chunks(cut) {
                received.room().extend_from_slice(part);
                while let Some((kind, payload)) = received.take().unwrap() {
                    prop_assert_eq!(kind, FrameKind::Output);
                    frames.push(payload);
                }
            }
            prop_assert!(received.is_empty());
            prop_assert_eq!(frames, payloads);
        }
    }
}
