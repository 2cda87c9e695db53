// SPDX-License-Identifier: Apache-2.0
//! The answer that is a stream: messages as they come, something to show life in between, and an end.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::{EnvdError, connect};

/// Seconds between signs of life if the client names none.
const KEEPALIVE_S: u64 = 90;
/// Messages on their way to a client that is slow: few, so that the sender is held up.
const ON_THEIR_WAY: usize = 4;

/// Where messages of a stream go.
#[derive(Debug)]
pub struct Sender {
    sender: mpsc::Sender<Bytes>,
    keepalive: Duration,
    /// What shows life.
    sign: Value,
}

/// The client has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left;

/// How a stream goes on.
pub enum Turn<T> {
    /// With this.
    Next(T),
    /// Not at all: the client has gone.
    Left,
}

impl Sender {
    /// Sends a message; waits for a client that is slow.
    pub async fn send(&self, message: &Value) -> Result<(), Left> {
        let sent = self.sender.send(connect::envelope(message)).await;
        sent.map_err(|_| Left)
    }

    /// Waits for what comes next, and shows life meanwhile.
    pub async fn next<T>(&self, next: impl Future<Output = T>) -> Turn<T> {
        let mut next = std::pin::pin!(next);
        loop {
            let waiting = async {
                tokio::select! {
                    found = &mut next => Turn::Next(found),
                    () = self.sender.closed() => Turn::Left,
                }
            };
            match timeout(self.keepalive, waiting).await {
                Ok(turn) => return turn,
                Err(_) if self.send(&self.sign).await.is_err() => return Turn::Left,
                Err(_) => {}
            }
        }
    }
}

/// Answers at once; `produce` sends, and what it returns is the end of the stream.
pub fn respond<F, Fut>(headers: &HeaderMap, sign: Value, produce: F) -> Response
where
    F: FnOnce(Sender) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), EnvdError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ON_THEIR_WAY);
    let own = Sender {
        sender: sender.clone(),
        keepalive: keepalive(headers),
        sign,
    };
    tokio::spawn(async move {
        let ended = produce(own).await;
        let end = connect::end(ended.as_ref().err());
        sender.send(end).await.ok(); // a client that has gone needs no end
    });
    response(Body::from_stream(
        ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>),
    ))
}

/// A stream that fails before it begins: status 200, as clients expect.
pub fn failure(error: &EnvdError) -> Response {
    response(Body::from(connect::end(Some(error))))
}

/// What shows life among events.
pub fn keepalive_event(key: Option<&str>) -> Value {
    let sign = json!({"keepalive": {}});
    match key {
        Some(key) => json!({key: sign}),
        None => sign,
    }
}

fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/connect+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn keepalive(headers: &HeaderMap) -> Duration {
    let asked = headers.get("keepalive-ping-interval");
    let seconds = asked.and_then(|text| text.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(KEEPALIVE_S).max(1))
}
