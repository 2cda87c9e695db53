// SPDX-License-Identifier: Apache-2.0
//! One request to whoever listens on a port of a sandbox, over a connection of its own, upgrades included.

use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header};
use axum::response::Response;
use cube_runtime::ports::{self, PortError};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::ProxyError;
use crate::route;
use crate::sandbox::Sandbox;

/// Headers that are about one connection (RFC 9110, 7.6.1), besides those of an upgrade.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// Passes a request on and answers what comes back.
pub async fn forward(
    sandbox: &Sandbox,
    port: u16,
    request: Request<Body>,
) -> Result<Response, ProxyError> {
    let stream = ports::open(sandbox.dir(), port).await;
    let stream = stream.map_err(|error| unreached(sandbox, port, error))?;
    let broken = |source: hyper::Error| ProxyError::Broken {
        id: sandbox.id().clone(),
        port,
        source,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // It ends with the request's answer, or tells it that it broke.
    tokio::spawn(connection.with_upgrades());
    let mask = sandbox.record().mask_request_host;
    let (request, client) = prepared(request, mask.as_deref(), port);
    let mut response = sender.send_request(request).await.map_err(broken)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        tokio::spawn(join(client, hyper::upgrade::on(&mut response)));
    }
    Ok(response.map(Body::new))
}

/// The request as the sandbox's server is to see it, and the client's side of an upgrade, if it wants one.
fn prepared(
    mut request: Request<Body>,
    mask: Option<&str>,
    port: u16,
) -> (Request<Body>, Option<OnUpgrade>) {
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    let client = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let host = match mask {
        Some(mask) => Some(mask.replace("${PORT}", &port.to_string())),
        None => route::host(request.headers(), request.uri()),
    };
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if !wants_upgrade {
        headers.remove(header::CONNECTION);
    }
    let host = host.and_then(|host| HeaderValue::try_from(host).ok());
    let nobody = HeaderValue::from_static("localhost");
    headers.insert(header::HOST, host.unwrap_or(nobody));
    (request, client)
}

/// Bytes in both directions until both sides have ended, or one has broken.
async fn join(client: OnUpgrade, server: OnUpgrade) {
    let both = async {
        let (client, server) = tokio::try_join!(client, server)?;
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        copy_bidirectional(&mut client, &mut server).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = both.await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
}

fn unreached(sandbox: &Sandbox, port: u16, error: PortError) -> ProxyError {
    let id = sandbox.id().clone();
    match error {
        PortError::Closed { .. } => ProxyError::Closed { id, port },
        other => ProxyError::Unreached {
            id,
            port,
            source: other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_request_of_http_2_becomes_one_of_http_1() {
        let uri = concat!("https", "://80-i1.sb.localhost:3443/a?b=c");
        let (prepared, client) = prepared(request(uri, &[("te", "trailers")]), None, 80);
        assert_eq!(prepared.uri(), "/a?b=c");
        assert_eq!(prepared.headers()["host"], "80-i1.sb.localhost:3443");
        assert!(!prepared.headers().contains_key("te"));
        assert!(client.is_none());
    }

    #[test]
    fn the_host_is_masked_as_asked_for() {
        let asked = request("/", &[("host", "80-i1.x"), ("connection", "keep-alive")]);
        let (prepared, _) = prepared(asked, Some("localhost:${PORT}"), 80);
        assert_eq!(prepared.headers()["host"], "localhost:80");
        assert!(!prepared.headers().contains_key("connection"));
    }

    #[test]
    fn an_upgrade_stays_one() {
        let asked = request("/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
        let (prepared, client) = prepared(asked, None, 80);
        assert_eq!(prepared.headers()["upgrade"], "websocket");
        assert_eq!(prepared.headers()["connection"], "upgrade");
        assert!(client.is_some());
    }
}
