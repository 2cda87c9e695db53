// SPDX-License-Identifier: Apache-2.0
//! Connections of clients: each request goes to the control plane or to a port of a sandbox.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::api::{self, Api};
use crate::envd;
use crate::proxy;
use crate::route::{self, Target};
use crate::sandbox::Sandboxes;

/// Between attempts to accept while there are no descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest time for a request's headers to arrive, and for a connection to be idle: longer than SDKs keep
/// one, so that none is closed under a request on its way.
const HEADER_LIMIT: Duration = Duration::from_secs(620);

/// What answers requests.
#[derive(Clone, Debug)]
pub struct Door {
    api: Router,
    sandboxes: Arc<Sandboxes>,
}

impl Door {
    /// In front of the control plane and of all sandboxes.
    pub fn new(api: Api) -> Self {
        Self {
            sandboxes: api.sandboxes.clone(),
            api: api::router(api),
        }
    }

    /// Serves connections for ever.
    pub async fn serve(self, listener: TcpListener) -> Infallible {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // A client that cannot have it waits a little longer for small answers.
                    stream.set_nodelay(true).ok();
                    tokio::spawn(self.clone().connection(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answer = service_fn(move |request| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.answer(request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a connection broke");
        }
    }

    /// An address of a file that was signed, under a host that names no sandbox: it is the one's whose token
    /// gives this signature.
    async fn signed(self, request: Request<Body>) -> Response {
        let (uri, method) = (request.uri(), request.method());
        let all = self.sandboxes.list(None);
        let signer = all
            .into_iter()
            .find(|sandbox| envd::is_signed_for(uri, method, sandbox));
        match signer {
            Some(sandbox) => envd::answer(sandbox, request).await,
            None => self.api.oneshot(request).await.into_response(),
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response {
        let request = request.map(Body::new);
        match route::target(request.headers(), request.uri()) {
            Target::Api if request.uri().path() == "/files" => self.signed(request).await,
            Target::Api => self.api.oneshot(request).await.into_response(),
            Target::Port { id, port } => proxy::answer(&self.sandboxes, &id, port, request).await,
        }
    }
}
