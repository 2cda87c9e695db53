// SPDX-License-Identifier: Apache-2.0
//! Names for a machine whose names the host answers: a relay between its stub resolvers and the host.
//!
//! ```text
//! a program ── UDP, TCP: 127.0.0.53 port 53 ── Relay ── vsock, DNS over TCP as it is ── the host
//! ```
//!
//! The relay decides nothing and reads no name. It puts a number of its own into each question, remembers whose it
//! was, and puts that one's number back into the answer. What may be asked, and what an answer lets
//! through, is the host's: a program that goes round the relay reaches nobody.

mod clients;
mod message;
#[cfg(test)]
mod tests;
mod waiting;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cube_protocol::MAX_DNS_QUESTION;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::NetworkError;
use crate::process::Connection;
use clients::{Client, Clients};
use waiting::Waiting;

/// Where programs find the relay, as resolv.conf says: the address that systemd's stub has as well.
pub const RELAY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 53), 53));

/// Most questions without an answer. One more is told that there is none.
const MOST_WAITING: usize = 512;

/// How long an answer is waited for. The host gives up sooner, and says so.
const LIFETIME: Duration = Duration::from_secs(10);

/// The relay of a machine.
#[derive(Debug, Default)]
pub struct Relay {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None before it listens.
    clients: Option<Clients>,
    host: Host,
    waiting: Waiting<Client>,
}

/// The connection to the host.
#[derive(Debug, Default)]
struct Host {
    /// Its number: each takes the place of the one before.
    number: u64,
    questions: Option<mpsc::Sender<Vec<u8>>>,
}

impl Relay {
    /// Begins to take questions, once: asked again, nothing changes.
    pub async fn listen(self: Arc<Self>, address: SocketAddr) -> Result<(), NetworkError> {
        if self.state().clients.is_some() {
            return Ok(());
        }
        let clients = Clients::listen(address, &self).await;
        let clients = clients.map_err(|source| NetworkError::Names {
            address,
            source: source.into(),
        })?;
        self.state().clients = Some(clients);
        Ok(())
    }

    /// Has the host answer, in place of whichever connection did before, until this one breaks.
    pub async fn serve(&self, host: impl Connection) {
        let (sender, mut questions) = mpsc::channel(MOST_WAITING);
        let number = self.state().replace_host(sender);
        let (mut reader, mut writer) = tokio::io::split(host);
        let asking = async {
            while let Some(question) = questions.recv().await {
                write_message(&mut writer, &question).await?;
            }
            Ok(())
        };
        let answering = async {
            loop {
                let answer = read_message(&mut reader, usize::MAX).await?;
                self.state().answered(answer);
            }
        };
        let ended: std::io::Result<()> = tokio::select! {
            ended = asking => ended,
            ended = answering => ended,
        };
        tracing::debug!(
            ?ended,
            "the host does not answer names over this connection any more"
        );
        self.state().host_is_gone(number);
    }

    /// Passes a question on, or says at once that there will be no answer.
    fn ask(&self, client: Client, question: Vec<u8>) {
        self.state().ask(client, question, Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ask(&mut self, client: Client, question: Vec<u8>, now: Instant) {
        if question.len() > MAX_DNS_QUESTION || !message::is_question(&question) {
            return;
        }
        let Some(questions) = self.host.questions.clone() else {
            return self.fail(&client, &question);
        };
        let mut asked = question.clone();
        let id = match self.waiting.insert((client, question), now) {
            Ok(id) => id,
            Err((client, question)) => return self.fail(&client, &question),
        };
        message::set_id(&mut asked, id);
        if questions.try_send(asked).is_err()
            && let Some((client, question)) = self.waiting.take(id)
        {
            self.fail(&client, &question);
        }
    }

    /// An answer to nobody is not the guest's fault: its question was given up.
    fn answered(&mut self, mut answer: Vec<u8>) {
        let waiting = message::id(&answer).and_then(|id| self.waiting.take(id));
        if let Some((client, question)) = waiting
            && let Some(id) = message::id(&question)
        {
            message::set_id(&mut answer, id);
            self.send(&client, &question, answer);
        }
    }

    fn replace_host(&mut self, questions: mpsc::Sender<Vec<u8>>) -> u64 {
        self.fail_all();
        self.host.number += 1;
        self.host.questions = Some(questions);
        self.host.number
    }

    fn host_is_gone(&mut self, number: u64) {
        if self.host.number == number {
            self.host.questions = None;
            self.fail_all();
        }
    }

    fn fail_all(&mut self) {
        for (client, question) in self.waiting.drain() {
            self.fail(&client, &question);
        }
    }

    fn fail(&self, client: &Client, question: &[u8]) {
        if let Some(answer) = message::failure(question) {
            self.send(client, question, answer);
        }
    }

    fn send(&self, client: &Client, question: &[u8], answer: Vec<u8>) {
        if let Some(clients) = &self.clients {
            clients.send(client, question, answer);
        }
    }
}

/// One message as TCP carries it; at its end there is no next one.
async fn read_message(
    from: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> std::io::Result<Vec<u8>> {
    let length = usize::from(from.read_u16().await?);
    if length > most {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message).await?;
    Ok(message)
}

/// In one piece, so that it is one packet.
async fn write_message(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
        .await
}
