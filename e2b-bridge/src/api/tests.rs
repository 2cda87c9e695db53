// SPDX-License-Identifier: Apache-2.0
//! What the control plane answers without a containerd: who is let in, and in which shape it says no.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use cube_containerd::Containerd;
use cube_runtime::Layout;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::{Api, router};
use crate::config::BridgeConfig;
use crate::keys::{KeyFile, Keys};
use crate::sandbox::Sandboxes;

struct Server {
    router: Router,
    key: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let mut file = KeyFile::default();
        let (_, key) = file.add("test", "blue", 1, 100).unwrap();
        file.write(&path).unwrap();
        let nobody = Containerd::connect_lazily(&dir.path().join("none.sock"), "e2b").unwrap();
        let layout = Layout::new(dir.path());
        let api = Api {
            sandboxes: Sandboxes::new(nobody, BridgeConfig::default(), layout),
            keys: Arc::new(Keys::open(path).unwrap()),
        };
        Self {
            router: router(api),
            key,
            _dir: dir,
        }
    }

    async fn ask(&self, method: &str, path: &str, key: &str, body: &str) -> (StatusCode, Value) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-api-key", key)
            .body(Body::from(body.to_owned()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn check(&self, method: &str, path: &str, body: &str, status: u16) {
        let (found, json) = self.ask(method, path, &self.key, body).await;
        assert_eq!(found, status, "{method} {path}: {json}");
        assert_eq!(json["code"], status, "{method} {path}: {json}");
        assert!(json["message"].is_string(), "{method} {path}: {json}");
    }
}

#[tokio::test]
async fn a_wrong_key_learns_nothing() {
    let server = Server::start();
    for path in ["/v2/sandboxes", "/sandboxes/i1", "/templates", "/volumes"] {
        let (status, json) = server.ask("GET", path, "e2b_00", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(json["code"], 401, "{path}");
    }
}

#[tokio::test]
async fn every_refusal_has_the_shape_that_sdks_read() {
    let server = Server::start();
    for (method, path, body, status) in [
        ("GET", "/nothing", "", 404),
        ("PUT", "/v2/sandboxes", "", 404),
        ("GET", "/sandboxes/i1", "", 404),
        ("DELETE", "/sandboxes/..%2Fi1", "", 404),
        ("POST", "/sandboxes/i1/connect", "{\"timeout\":1}", 404),
        ("POST", "/sandboxes/i1/timeout", "{}", 400),
        ("POST", "/v2/sandboxes", "{", 400),
        (
            "POST",
            "/v2/sandboxes",
            "{\"templateID\":\"base\",\"timeout\":1000000}",
            400,
        ),
        ("GET", "/v2/sandboxes?limit=0", "", 400),
        ("POST", "/sandboxes/i1/pause", "", 400),
        ("POST", "/sandboxes/i1/fork", "", 400),
        ("POST", "/v3/templates", "{}", 400),
        ("POST", "/volumes", "{}", 400),
    ] {
        server.check(method, path, body, status).await;
    }
}

#[tokio::test]
async fn a_list_of_nothing_is_empty() {
    let server = Server::start();
    let (status, json) = server.ask("GET", "/v2/sandboxes", &server.key, "").await;
    assert_eq!((status, json), (StatusCode::OK, Value::Array(vec![])));
}

#[tokio::test]
async fn a_daemon_that_is_away_is_our_fault() {
    let server = Server::start();
    let body = "{\"templateID\":\"base\"}";
    let (status, json) = server.ask("GET", "/templates", &server.key, body).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{json}");
}
