// SPDX-License-Identifier: Apache-2.0
//! The names of a sandbox that has a policy: who answers what its agent relays.
//!
//! ```text
//! agent ── vsock ── session: Question ─▶ may it? ─▶ upstream ─▶ admit its addresses ─▶ answer
//!                               └─ refused              └─ failed       └─ failed
//! ```
//!
//! An address is let through before the guest hears of it, so that its first packet is. What is asked, decided
//! and read is `cube_net::dns`; here are sockets and time. The guest is at the other end: it can ask as
//! fast as it likes and say anything, and gets as many answers at once as there are places.

mod server;
mod servers;
mod upstream;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cube_net::dns::{MAX_QUESTION, Named, Question};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

pub use server::{NameServer, NameServerError};
pub(crate) use servers::Servers;

use super::NetworkError;
use crate::error::chain;
use crate::vmm::End;
use crate::vsock;

/// Questions of a sandbox that are answered at once. More wait in the guest.
const PLACES: usize = 64;

/// How long the guest may take for the rest of a question that it began, and for its end of a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause before a connection that broke is made anew: the guest can break each of them at once.
const PAUSE: Duration = Duration::from_secs(1);

/// What a sandbox may ask, and be told. As it is at the moment: a policy can be replaced.
pub(super) trait Rules: Send + Sync + 'static {
    /// Whether this name may be asked for.
    fn may_resolve(&self, name: &str) -> impl Future<Output = bool> + Send;
    /// Lets through what this name stands for, if the policy allows the name.
    fn admit(
        &self,
        name: &str,
        named: Named,
    ) -> impl Future<Output = Result<(), NetworkError>> + Send;
}

/// Who answers one sandbox.
#[derive(Debug)]
pub(super) struct Names<R> {
    rules: Arc<R>,
    servers: Servers,
    places: Arc<Semaphore>,
}

impl<R: Rules> Names<R> {
    pub(super) fn new(rules: Arc<R>, servers: Servers) -> Arc<Self> {
        Arc::new(Self {
            rules,
            servers,
            places: Arc::new(Semaphore::new(PLACES)),
        })
    }

    /// Answers until the end of the machine.
    pub(super) async fn answer(self: Arc<Self>, vsock: &Path, end: &End) {
        let sessions = async {
            loop {
                let ended = self.clone().connect(vsock).await;
                tracing::debug!(error = %ended, "a sandbox's names are not answered for a moment");
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            _ = end.wait() => {}
            () = sessions => {}
        }
    }

    /// One connection, until it breaks.
    async fn connect(self: Arc<Self>, vsock: &Path) -> io::Error {
        let dialled = timeout(PATIENCE, vsock::dial(vsock, cube_protocol::DNS_PORT)).await;
        match dialled {
            Ok(Ok(stream)) => self.session(stream).await,
            Ok(Err(error)) => io::Error::other(chain(&error)),
            Err(_) => io::ErrorKind::TimedOut.into(),
        }
    }

    async fn session(self: Arc<Self>, stream: UnixStream) -> io::Error {
        let (mut reader, mut writer) = stream.into_split();
        let (answers, mut waiting) = mpsc::channel(PLACES);
        let ended: io::Result<()> = tokio::select! {
            ended = self.take_questions(&mut reader, answers) => ended,
            ended = write_answers(&mut writer, &mut waiting) => ended,
        };
        ended
            .err()
            .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Begins to answer each, as long as there are places.
    async fn take_questions(
        self: &Arc<Self>,
        from: &mut (impl AsyncRead + Unpin),
        answers: mpsc::Sender<Vec<u8>>,
    ) -> io::Result<()> {
        loop {
            let question = read_question(from).await?;
            // Never closed.
            let place = self
                .places
                .clone()
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let (this, answers) = (self.clone(), answers.clone());
            // It ends by itself, and soon: what it lets through is not to be cut off in the middle.
            tokio::spawn(async move {
                if let Some(answer) = this.resolve(&question).await
                    && answers.send(answer).await.is_err()
                {
                    tracing::debug!("who asked for a name has gone");
                }
                drop(place);
            });
        }
    }

    /// The answer to a question; none if nobody waits for one.
    async fn resolve(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = match Question::parse(question) {
            Ok(question) => question,
            Err(other) => return other.answer,
        };
        let name = question.name();
        if !self.rules.may_resolve(name).await {
            tracing::debug!(name, "the sandbox's policy does not allow this name");
            return Some(question.refusal());
        }
        let asked = upstream::ask(&self.servers.list().await, &question).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(name, error = %chain(&error), "a name has no answer");
                return Some(question.failure());
            }
        };
        if let Err(error) = self.rules.admit(name, answer.named()).await {
            tracing::debug!(name, error = %chain(&error), "what a name stands for stays out of reach");
            return Some(question.failure());
        }
        Some(answer.into_bytes(question.id()))
    }
}

/// One question as the agent sends it (RFC 7766, section 8). It may be long in coming, but not in parts.
async fn read_question(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(from.read_u16().await?);
    if length > MAX_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut question = vec![0; length];
    timeout(PATIENCE, from.read_exact(&mut question)).await??;
    Ok(question)
}

async fn write_answers(
    to: &mut (impl AsyncWrite + Unpin),
    waiting: &mut mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(answer) = waiting.recv().await {
        write_message(to, &answer).await?;
    }
    Ok(())
}

/// A message as TCP carries it, in one piece.
async fn write_message(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
        .await
}
