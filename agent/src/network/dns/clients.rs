// SPDX-License-Identifier: Apache-2.0
//! The machine's stub resolvers, over UDP and TCP. Any program can be one: all they can do is bounded.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cube_protocol::MAX_DNS_QUESTION;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::{LIFETIME, Relay, message, read_message, write_message};

/// Most connections at once.
const CONNECTIONS: usize = 64;

/// Most answers that wait to be written to one connection; who does not read loses what is more.
const ANSWERS: usize = 64;

/// Pause after a failure, most likely for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Who asked.
#[derive(Clone, Debug)]
pub(super) enum Client {
    /// From there.
    Udp(SocketAddr),
    /// Over a connection.
    Tcp(mpsc::Sender<Vec<u8>>),
}

/// Where answers go out.
#[derive(Debug)]
pub(super) struct Clients {
    udp: Arc<UdpSocket>,
    #[cfg(test)]
    pub(super) tcp: SocketAddr,
}

impl Clients {
    /// Takes questions for a relay, for as long as it is there.
    pub(super) async fn listen(address: SocketAddr, relay: &Arc<Relay>) -> io::Result<Self> {
        let udp = Arc::new(UdpSocket::bind(address).await?);
        let tcp = TcpListener::bind(address).await?;
        let clients = Self {
            udp: udp.clone(),
            #[cfg(test)]
            tcp: tcp.local_addr()?,
        };
        tokio::spawn(take_datagrams(udp, Arc::downgrade(relay)));
        tokio::spawn(take_connections(tcp, Arc::downgrade(relay)));
        Ok(clients)
    }

    /// A client that does not take its answer now asks again.
    pub(super) fn send(&self, client: &Client, question: &[u8], answer: Vec<u8>) {
        match client {
            Client::Tcp(answers) => drop(answers.try_send(answer)),
            Client::Udp(to) if answer.len() <= message::limit(question) => {
                drop(self.udp.try_send_to(&answer, *to));
            }
            Client::Udp(to) => {
                if let Some(short) = message::truncated(&answer) {
                    drop(self.udp.try_send_to(&short, *to));
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn udp(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }
}

async fn take_datagrams(socket: Arc<UdpSocket>, relay: Weak<Relay>) {
    // One byte more than is taken, so that what was cut off is told from what fits.
    let mut buffer = vec![0; MAX_DNS_QUESTION + 1];
    loop {
        let received = socket.recv_from(&mut buffer).await;
        let Some(relay) = relay.upgrade() else { return };
        match received {
            Ok((length, from)) => {
                let question = buffer.get(..length).unwrap_or_default();
                relay.ask(Client::Udp(from), question.to_vec());
            }
            Err(error) => {
                tracing::debug!(%error, "no questions over UDP");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn take_connections(listener: TcpListener, relay: Weak<Relay>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // With none free, others wait in the kernel's queue.
        let Ok(place) = free.clone().acquire_owned().await else {
            return;
        };
        let accepted = listener.accept().await;
        let Some(relay) = relay.upgrade() else { return };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(async move {
                serve(relay, stream).await;
                drop(place);
            })),
            Err(error) => {
                tracing::debug!(%error, "no questions over TCP");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Until the client has said nothing for a while, said something else, or does not read.
async fn serve(relay: Arc<Relay>, stream: TcpStream) {
    let (mut reader, mut writer) = stream.into_split();
    let (sender, mut answers) = mpsc::channel::<Vec<u8>>(ANSWERS);
    let reading = async move {
        while let Ok(Ok(question)) =
            timeout(LIFETIME, read_message(&mut reader, MAX_DNS_QUESTION)).await
        {
            relay.ask(Client::Tcp(sender.clone()), question);
        }
    };
    let mut writing = pin!(async move {
        while let Some(answer) = answers.recv().await {
            match timeout(LIFETIME, write_message(&mut writer, &answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    });
    tokio::select! {
        () = reading => {
            // It asked all it wanted, and may have closed its side: answers are still to come.
            drop(timeout(LIFETIME, writing).await);
        }
        () = &mut writing => {}
    }
}
