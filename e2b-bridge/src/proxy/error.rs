// SPDX-License-Identifier: Apache-2.0
//! What a client of a sandbox's port is told when nothing answers there. SDKs look for these very words.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cube_runtime::ports::PortError;
use serde::Serialize;
use thiserror::Error;

use crate::sandbox::SandboxId;

/// Why a request did not reach a port.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// There is none, or none any more.
    #[error("The sandbox was not found")]
    NoSandbox {
        /// Its name.
        id: SandboxId,
    },
    /// Nothing listens there.
    #[error("The sandbox is running but port is not open")]
    Closed {
        /// The sandbox.
        id: SandboxId,
        /// The port.
        port: u16,
    },
    /// The sandbox's agent did not get there.
    #[error("The sandbox is running but port is not open: {source}")]
    Unreached {
        /// The sandbox.
        id: SandboxId,
        /// The port.
        port: u16,
        /// Why.
        source: PortError,
    },
    /// Whoever listens there did not answer with HTTP.
    #[error("the connection to the port broke: {source}")]
    Broken {
        /// The sandbox.
        id: SandboxId,
        /// The port.
        port: u16,
        /// How.
        source: hyper::Error,
    },
    /// Its ports are not for everybody.
    #[error("a valid traffic access token is required in the header e2b-traffic-access-token")]
    NoToken {
        /// The sandbox.
        id: SandboxId,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody {
    sandbox_id: String,
    message: String,
    code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

impl IntoResponse for ProxyError {
    fn into_response(self) -> Response {
        let message = self.to_string();
        let (status, id, port) = match self {
            ProxyError::NoSandbox { id } => (StatusCode::BAD_GATEWAY, id, None),
            ProxyError::Closed { id, port } => (StatusCode::BAD_GATEWAY, id, Some(port)),
            ProxyError::Unreached { id, port, .. } | ProxyError::Broken { id, port, .. } => {
                (StatusCode::BAD_GATEWAY, id, Some(port))
            }
            ProxyError::NoToken { id } => (StatusCode::FORBIDDEN, id, None),
        };
        let body = ErrorBody {
            sandbox_id: id.to_string(),
            message,
            code: status.as_u16(),
            port,
        };
        (status, Json(body)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn sdks_find_their_words() {
        let id = SandboxId::parse("i1").unwrap();
        for (error, expect) in [
            (
                ProxyError::NoSandbox { id: id.clone() },
                json!({"sandboxId": "i1", "message": "The sandbox was not found", "code": 502}),
            ),
            (
                ProxyError::Closed { id, port: 80 },
                json!({"sandboxId": "i1", "port": 80, "code": 502,
                       "message": "The sandbox is running but port is not open"}),
            ),
        ] {
            let response = error.into_response();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(body, expect);
        }
    }
}
