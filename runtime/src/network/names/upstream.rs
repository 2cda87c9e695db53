// SPDX-License-Identifier: Apache-2.0
//! One question to a name server: over UDP, and over TCP if the answer is longer than that.
//!
//! Nobody but the server can answer in time who does not see the question: each goes out of a socket of its own,
//! whose port the kernel chooses, under a random number, and only what comes from the server and repeats both
//! number and name is its answer (RFC 5452).

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use cube_net::dns::{Answer, MAX_MESSAGE, Question};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::write_message;

/// How often a question is asked, the next server being the next one's turn, and how long an answer is waited
/// for: five seconds in all, after which stub resolvers ask again.
const TRIES: usize = 2;
const TRY: Duration = Duration::from_millis(2500);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum UpstreamError {
    /// Nobody to ask.
    #[error("there is no name server to ask")]
    None,
    /// No number can be made up.
    #[error("no random number could be read from /dev/urandom")]
    Random(#[source] io::Error),
    /// It cannot be reached.
    #[error("the name server {server} could not be asked")]
    Ask {
        /// Where.
        server: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It says nothing, or something else.
    #[error("the name server {server} did not answer within {} ms", TRY.as_millis())]
    Silent {
        /// Where.
        server: SocketAddr,
    },
}

/// Asks one server after the other, until one knows. What the last one says is passed on as it is.
pub(super) async fn ask(
    servers: &[SocketAddr],
    question: &Question,
) -> Result<Answer, UpstreamError> {
    let mut last = Err(UpstreamError::None);
    for &server in servers.iter().cycle().take(TRIES) {
        let asked = question.to_ask(random()?);
        let tried = timeout(TRY, ask_one(server, &asked)).await;
        last = match tried {
            Ok(Ok(answer)) if !answer.is_failure() => return Ok(answer),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(UpstreamError::Ask { server, source }),
            Err(_) => Err(UpstreamError::Silent { server }),
        };
    }
    last
}

async fn ask_one(server: SocketAddr, asked: &[u8]) -> io::Result<Answer> {
    let answer = by_datagram(server, asked).await?;
    if answer.is_truncated() {
        by_stream(server, asked).await
    } else {
        Ok(answer)
    }
}

async fn by_datagram(server: SocketAddr, asked: &[u8]) -> io::Result<Answer> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let received = buffer.get(..length).unwrap_or_default();
        // Somebody who guesses is not to take the real answer's place.
        if let Some(answer) = Answer::to(asked, received.to_vec()) {
            return Ok(answer);
        }
    }
}

async fn by_stream(server: SocketAddr, asked: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, asked).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Answer::to(asked, bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn random() -> Result<u16, UpstreamError> {
    let mut bytes = [0; 2];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(UpstreamError::Random)?;
    Ok(u16::from_be_bytes(bytes))
}
