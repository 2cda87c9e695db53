// SPDX-License-Identifier: Apache-2.0
//! Where a request goes: to this server, or to a port of a sandbox. Headers first, then the host's name.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

use crate::sandbox::SandboxId;

const ID_HEADER: &str = "e2b-sandbox-id";
const PORT_HEADER: &str = "e2b-sandbox-port";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The control plane.
    Api,
    /// A port of a sandbox, which may not exist.
    Port {
        /// The sandbox.
        id: SandboxId,
        /// The port.
        port: u16,
    },
}

/// Reads a request's headers and its URI, which has the host in HTTP/2.
pub fn target(headers: &HeaderMap, uri: &Uri) -> Target {
    by_headers(headers)
        .or_else(|| by_host(&host(headers, uri)?))
        .map_or(Target::Api, |(id, port)| Target::Port { id, port })
}

/// The request's host, with a port if there is one.
pub fn host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let of_uri = uri.authority().map(Authority::as_str);
    let of_header = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    of_uri.or(of_header).map(str::to_owned)
}

fn by_headers(headers: &HeaderMap) -> Option<(SandboxId, u16)> {
    let text = |name| headers.get(name)?.to_str().ok();
    let id = SandboxId::parse(text(ID_HEADER)?)?;
    let port = text(PORT_HEADER)?.parse().ok()?;
    Some((id, port))
}

/// From `<port>-<id>.<domain>`; old SDKs write `<port>-<id>-<client>.<domain>`.
fn by_host(host: &str) -> Option<(SandboxId, u16)> {
    let (label, _) = host.split_once('.')?;
    let (port, name) = label.split_once('-')?;
    Some((SandboxId::parse(name)?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], uri: &str, expect: Option<(&str, u16)>) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>();
        let expect = expect.map_or(Target::Api, |(id, port)| Target::Port {
            id: SandboxId::parse(id).unwrap(),
            port,
        });
        assert_eq!(
            target(&headers, &uri.parse().unwrap()),
            expect,
            "{headers:?} {uri}"
        );
    }

    #[test]
    fn headers_come_first() {
        let by_headers = [("e2b-sandbox-id", "i1"), ("e2b-sandbox-port", "49983")];
        check(&by_headers, "/files", Some(("i1", 49983)));
        let both = [&by_headers[..], &[("host", "80-i2.sb.localhost")]].concat();
        check(&both, "/files", Some(("i1", 49983)));
    }

    #[test]
    fn the_first_label_of_the_host_is_read() {
        for (host, expect) in [
            ("8000-i1.sb.localhost:3443", Some(("i1", 8000))),
            ("49983-i1-cube.sb.localhost", Some(("i1", 49983))),
            ("api.sb.localhost", None),
            ("127.0.0.1:3000", None),
            ("localhost", None),
            ("99999-i1.sb.localhost", None),
            ("80-I1.sb.localhost", None),
            ("sandbox.e2b.app", None),
        ] {
            check(&[("host", host)], "/", expect);
        }
    }

    #[test]
    fn http_2_has_the_host_in_the_uri() {
        let uri = concat!("https", "://80-i1.sb.localhost/x");
        check(&[], uri, Some(("i1", 80)));
    }

    #[test]
    fn half_of_the_headers_is_nothing() {
        check(&[("e2b-sandbox-id", "i1")], "/", None);
        check(
            &[("e2b-sandbox-id", "i1"), ("e2b-sandbox-port", "x")],
            "/",
            None,
        );
    }
}
