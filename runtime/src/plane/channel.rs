// SPDX-License-Identifier: Apache-2.0
//! A connection of its own for whatever moves bytes: an opening, its answer, then frames.

use std::io;
use std::time::Duration;

use cube_protocol::v1::plane::opening::Wanted;
use cube_protocol::v1::plane::{Answer, Opening, answer};
use cube_protocol::{FrameKind, PLANE_PORT, Received, encode_frame};
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::connection::Connection;
use super::error::LostError;
use super::{Plane, PlaneError};

/// Longest time until what was wanted begins: a process is set up, a directory is walked for watches.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The connection. `what` is what it is for, for messages.
#[derive(Debug)]
pub(super) struct Channel {
    what: &'static str,
    stream: UnixStream,
    received: Received,
}

impl Plane {
    /// Opens a channel and waits for the agent's answer.
    pub(super) async fn open_channel(
        &self,
        what: &'static str,
        wanted: Wanted,
    ) -> Result<(Channel, answer::Answer), PlaneError> {
        let opening = async {
            let mut channel = self.begin_channel(what, wanted).await?;
            let answer = channel.answer().await?;
            Ok((channel, answer))
        };
        let limit = OPEN_TIMEOUT;
        timeout(limit, opening)
            .await
            .unwrap_or(Err(PlaneError::Timeout { what, limit }))
    }

    /// Opens a channel whose answer comes later.
    pub(super) async fn begin_channel(
        &self,
        what: &'static str,
        wanted: Wanted,
    ) -> Result<Channel, PlaneError> {
        let opening = Opening {
            container_id: self.container_id(),
            wanted: Some(wanted),
            ..Default::default()
        };
        Channel::begin(&self.connection, what, &opening).await
    }
}

impl Channel {
    async fn begin(
        connection: &Connection,
        what: &'static str,
        opening: &Opening,
    ) -> Result<Self, PlaneError> {
        let bytes = opening
            .write_to_bytes()
            .map_err(|_| PlaneError::Malformed { what })?;
        let frame = encode_frame(FrameKind::Message, &bytes)
            .map_err(|source| PlaneError::TooLong { what, source })?;
        let stream = connection.dial(PLANE_PORT).await?;
        let mut channel = Self {
            what,
            stream,
            received: Received::default(),
        };
        let sent = channel.stream.write_all(&frame).await;
        sent.map_err(|error| channel.lost(error))?;
        Ok(channel)
    }

    /// The next frame; none once the guest has closed the connection between two. Nothing is lost when the
    /// caller stops waiting.
    pub(super) async fn next(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, PlaneError> {
        loop {
            let frame = self.received.take();
            if let Some(frame) = frame.map_err(|error| self.lost(error))? {
                return Ok(Some(frame));
            }
            let count = self.stream.read_buf(self.received.room()).await;
            match count.map_err(|error| self.lost(error))? {
                0 if self.received.is_empty() => return Ok(None),
                0 => return Err(self.ended_early()),
                _ => {}
            }
        }
    }

    /// Sends a frame, unless the guest says meanwhile that it wants no more: then that is the error.
    pub(super) async fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), PlaneError> {
        let frame = encode_frame(kind, payload).map_err(|error| self.lost(error))?;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            let (mut reader, mut writer) = self.stream.split();
            let written = tokio::select! {
                biased;
                count = reader.read_buf(self.received.room()) => match count {
                    Ok(_) => Err(self.stopped().await),
                    Err(error) => Err(self.lost(error)),
                },
                written = writer.write(rest) => written.map_err(|error| self.lost(error)),
            };
            rest = &rest[written?..];
        }
        Ok(())
    }

    /// Why the guest spoke, or closed, before it was its turn.
    async fn stopped(&mut self) -> PlaneError {
        match self.answer().await {
            Ok(_) => self.malformed(),
            Err(error) => error,
        }
    }

    /// The answer to what was wanted; a fault is an error.
    pub(super) async fn answer(&mut self) -> Result<answer::Answer, PlaneError> {
        match self.next().await? {
            Some((FrameKind::Message, payload)) => self.answer_in(&payload),
            Some(_) => Err(self.malformed()),
            None => Err(self.ended_early()),
        }
    }

    /// The same, from a frame that was received.
    pub(super) fn answer_in(&self, payload: &[u8]) -> Result<answer::Answer, PlaneError> {
        match self.message::<Answer>(payload)?.answer {
            Some(answer::Answer::Fault(fault)) => Err(PlaneError::refused(self.what, &fault)),
            Some(answer) => Ok(answer),
            None => Err(self.malformed()),
        }
    }

    pub(super) fn message<M: Message>(&self, payload: &[u8]) -> Result<M, PlaneError> {
        M::parse_from_bytes(payload).map_err(|_| self.malformed())
    }

    pub(super) fn malformed(&self) -> PlaneError {
        PlaneError::Malformed { what: self.what }
    }

    pub(super) fn ended_early(&self) -> PlaneError {
        self.lost(io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    pub(super) fn lost(&self, source: impl Into<LostError>) -> PlaneError {
        PlaneError::Lost {
            what: self.what,
            source: source.into(),
        }
    }
}
