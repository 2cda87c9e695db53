// SPDX-License-Identifier: Apache-2.0
//! Delivers events to containerd in the order they happened, also after containerd was away.
//!
//! At least once: an event whose answer is lost with the connection is sent again, and clients
//! tolerate that. An event that containerd itself refuses is dropped with a log line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::EventsClient;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use ttrpc::r#async::transport::Socket;
use ttrpc::{asynchronous::Client, context};

use super::{Encoded, Event};
use crate::task::timestamp;

/// Events kept while containerd is away: a sandbox makes a handful per exec, so this is hours of it
/// and about a megabyte. The oldest go first.
const MAX_PENDING: usize = 4096;
/// Longest wait for containerd's answer before the connection counts as dead.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Wait before the next attempt, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// See [`FIRST_PAUSE`].
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// The near end: cheap to clone, never waits.
#[derive(Clone)]
pub struct Publisher {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    pending: Mutex<Pending>,
    /// There is something to send.
    filled: Notify,
    /// Everything was sent.
    empty: Notify,
}

#[derive(Default)]
struct Pending {
    events: VecDeque<Encoded>,
    /// How many have left the front, sent or dropped: tells whether the front is still the one that
    /// was being sent.
    gone: u64,
}

#[derive(Debug, Error)]
enum SendError {
    #[error("containerd's events socket {0:?} cannot be connected")]
    Connect(String, #[source] std::io::Error),
    #[error("the connection to containerd's events socket failed")]
    Connection(#[source] ttrpc::Error),
    #[error("containerd refused the event")]
    Refused(#[source] ttrpc::Error),
}

impl Publisher {
    /// Sends to a containerd's ttrpc socket, from a task of the current runtime. Without an address
    /// (started by hand) events go nowhere.
    pub fn new(address: Option<String>, namespace: &str) -> Self {
        let publisher = Self::idle();
        match address.filter(|address| !address.is_empty()) {
            Some(address) => {
                let courier = Courier {
                    queue: publisher.queue.clone(),
                    address: address.trim_start_matches("unix://").to_owned(),
                    namespace: namespace.to_owned(),
                };
                tokio::spawn(courier.run());
            }
            None => tracing::warn!("containerd named no events socket: events are not sent"),
        }
        publisher
    }

    /// Only collects.
    fn idle() -> Self {
        Self {
            queue: Arc::default(),
        }
    }

    /// Puts an event at the end of the queue.
    pub fn publish(&self, event: Event) {
        tracing::debug!(?event, "event");
        let mut pending = self.queue.lock();
        if pending.events.len() >= MAX_PENDING {
            pending.pop();
            tracing::warn!("containerd has been away for too long: its oldest event is dropped");
        }
        pending.events.push_back(event.encode());
        drop(pending);
        self.queue.filled.notify_one();
    }

    /// Waits until everything was sent, but not longer than `limit`.
    pub async fn flush(&self, limit: Duration) {
        let all_sent = async {
            loop {
                let empty = self.queue.empty.notified();
                if self.queue.lock().events.is_empty() {
                    return;
                }
                empty.await;
            }
        };
        if tokio::time::timeout(limit, all_sent).await.is_err() {
            let left = self.queue.lock().events.len();
            tracing::warn!(left, "events that containerd did not take are lost");
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn pop(&mut self) {
        if self.events.pop_front().is_some() {
            self.gone += 1;
        }
    }
}

/// The far end: one task, one connection, one event at a time.
struct Courier {
    queue: Arc<Queue>,
    address: String,
    namespace: String,
}

impl Courier {
    async fn run(self) {
        let mut connection = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let (event, number) = self.next().await;
            match self.send(&mut connection, event).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(SendError::Refused(error)) => {
                    tracing::warn!(%error, "an event is dropped: containerd refused it");
                }
                Err(error) => {
                    let error = cube_runtime::error::chain(&error);
                    tracing::debug!(error, "an event is sent again later");
                    connection = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                    continue;
                }
            }
            self.done(number);
        }
    }

    async fn next(&self) -> (Encoded, u64) {
        loop {
            let filled = self.queue.filled.notified();
            {
                let pending = self.queue.lock();
                if let Some(event) = pending.events.front() {
                    return (event.clone(), pending.gone);
                }
            }
            filled.await;
        }
    }

    fn done(&self, number: u64) {
        let mut pending = self.queue.lock();
        if pending.gone == number {
            pending.pop();
        }
        if pending.events.is_empty() {
            self.queue.empty.notify_waiters();
        }
    }

    async fn send(
        &self,
        connection: &mut Option<EventsClient>,
        event: Encoded,
    ) -> Result<(), SendError> {
        let client = match connection {
            Some(client) => client,
            None => {
                let stream = UnixStream::connect(&self.address)
                    .await
                    .map_err(|error| SendError::Connect(self.address.clone(), error))?;
                let client = EventsClient::new(Client::new(Socket::new(stream)));
                connection.insert(client)
            }
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(event.at)).into(),
            namespace: self.namespace.clone(),
            topic: event.topic.to_owned(),
            event: Some(event.message).into(),
            ..Default::default()
        };
        let request = ForwardRequest {
            envelope: Some(envelope).into(),
            ..Default::default()
        };
        match client
            .forward(context::with_duration(ANSWER_LIMIT), &request)
            .await
        {
            Ok(_) => Ok(()),
            Err(error @ ttrpc::Error::RpcStatus(_)) => Err(SendError::Refused(error)),
            Err(error) => Err(SendError::Connection(error)),
        }
    }
}

#[cfg(test)]
impl Publisher {
    /// A publisher that only collects.
    pub fn collecting() -> Self {
        Self::idle()
    }

    /// What was published so far, oldest first.
    pub fn collected(&self) -> Vec<Encoded> {
        self.queue.lock().events.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
