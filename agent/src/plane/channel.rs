// SPDX-License-Identifier: Apache-2.0
//! A connection of the plane: reads its opening, has it served, says how that ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cube_protocol::v1::agent::Empty;
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::answer::Answer;
use cube_protocol::v1::plane::opening::Wanted;
use cube_protocol::{FrameError, FrameKind, Received, encode_frame};
use protobuf::Message;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::fault::PlaneFault;
use super::visit::Visit;
use super::{listing, start, transfer, watch};
use crate::agent::Agent;
use crate::process::Connection;

/// How long a connection may take to say what it wants. The host sends that at once.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that ended before it should have.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// It broke; the host went away.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// Not our protocol.
    #[error("not a frame")]
    Frame(#[from] FrameError),
    /// Not our protocol either.
    #[error("not a message")]
    Message(#[from] protobuf::Error),
    /// It says nothing.
    #[error("no opening within {} s", OPENING_TIMEOUT.as_secs())]
    Silent,
    /// Something else than what comes at this point.
    #[error("a frame of kind {kind:?} came out of turn")]
    Unexpected {
        /// What came.
        kind: FrameKind,
    },
}

/// Why a request on a channel ends early.
#[derive(Debug, Error)]
pub enum Stop {
    /// The host is told.
    #[error(transparent)]
    Fault(#[from] PlaneFault),
    /// There is nobody to tell.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Frames over a connection.
pub struct Channel<C> {
    connection: C,
    received: Received,
}

/// Serves one connection to its end.
pub async fn serve(agent: Arc<Agent>, connection: impl Connection) -> Result<(), ChannelError> {
    let mut channel = Channel::new(connection);
    let opening = timeout(OPENING_TIMEOUT, channel.opening())
        .await
        .map_err(|_| ChannelError::Silent)??;
    // Held until the host has closed.
    let (place, done) = match agent.plane().take_place() {
        Ok(place) => (Some(place), run(&agent, &mut channel, opening).await),
        Err(full) => (None, Err(full.into())),
    };
    let finished = match done {
        Ok(()) => channel.finish().await,
        Err(Stop::Fault(fault)) => {
            channel.answer(Answer::Fault(fault.to_wire())).await?;
            channel.finish().await
        }
        Err(Stop::Channel(error)) => Err(error),
    };
    drop(place);
    finished
}

async fn run<C: Connection>(
    agent: &Arc<Agent>,
    channel: &mut Channel<C>,
    opening: wire::Opening,
) -> Result<(), Stop> {
    let container = agent
        .container(&opening.container_id)
        .map_err(PlaneFault::from)?;
    match opening.wanted.ok_or_else(unknown)? {
        Wanted::Start(job) => start::serve(agent, container, channel, job).await,
        Wanted::Attach(job) => start::attach(&container, channel, &job).await,
        inside => {
            let visit = container.visit().await.map_err(PlaneFault::from)?;
            tokio::select! {
                result = run_inside(&visit, channel, inside) => result,
                () = visit.closing() => Err(PlaneFault::from(container.is_leaving()).into()),
            }
        }
    }
}

fn unknown() -> PlaneFault {
    PlaneFault::Request {
        field: "wanted",
        reason: "is nothing that this agent knows".to_owned(),
    }
}

async fn run_inside<C: Connection>(
    visit: &Visit,
    channel: &mut Channel<C>,
    wanted: Wanted,
) -> Result<(), Stop> {
    match wanted {
        Wanted::Read(read) => transfer::read(visit, channel, read).await,
        Wanted::Write(write) => transfer::write(visit, channel, write).await,
        Wanted::List(list) => listing::serve(visit, channel, list).await,
        Wanted::Watch(watched) => watch::serve(visit, channel, watched).await,
        // Those that need no tree do not come here, and others there are none.
        _ => Err(unknown().into()),
    }
}

impl<C: Connection> Channel<C> {
    /// Over a connection that nothing was read from.
    pub fn new(connection: C) -> Self {
        Self {
            connection,
            received: Received::default(),
        }
    }

    /// The next frame; none once the host has closed its side. Can be given up without a loss.
    pub async fn next(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, ChannelError> {
        loop {
            if let Some(frame) = self.received.take()? {
                return Ok(Some(frame));
            }
            let count = self.connection.read_buf(self.received.room()).await?;
            match count {
                0 if self.received.is_empty() => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => {}
            }
        }
    }

    /// Waits until the host closes its side, which says nothing meanwhile. Can be given up.
    pub async fn closed(&mut self) -> ChannelError {
        match self.next().await {
            Ok(None) => io::Error::from(io::ErrorKind::ConnectionAborted).into(),
            Ok(Some((kind, _))) => ChannelError::Unexpected { kind },
            Err(error) => error,
        }
    }

    /// Sends a frame.
    pub async fn send(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), ChannelError> {
        let frame = encode_frame(kind, payload)?;
        Ok(self.connection.write_all(&frame).await?)
    }

    /// Sends a message.
    pub async fn tell(&mut self, message: &impl Message) -> Result<(), ChannelError> {
        self.send(FrameKind::Message, &message.write_to_bytes()?)
            .await
    }

    /// Answers what was wanted.
    pub async fn answer(&mut self, answer: Answer) -> Result<(), ChannelError> {
        let mut message = wire::Answer::new();
        message.answer = Some(answer);
        self.tell(&message).await
    }

    /// Answers that it begins.
    pub async fn agree(&mut self) -> Result<(), ChannelError> {
        self.answer(Answer::Ok(Empty::new())).await
    }

    async fn opening(&mut self) -> Result<wire::Opening, ChannelError> {
        match self.next().await? {
            Some((FrameKind::Message, payload)) => Ok(wire::Opening::parse_from_bytes(&payload)?),
            Some((kind, _)) => Err(ChannelError::Unexpected { kind }),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Half-closes and waits for the host to close, so that nothing cuts off what it has not read yet.
    async fn finish(&mut self) -> Result<(), ChannelError> {
        self.connection.shutdown().await?;
        while self.next().await?.is_some() {}
        Ok(())
    }
}
