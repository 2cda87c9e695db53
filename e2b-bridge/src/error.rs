// SPDX-License-Identifier: Apache-2.0
//! What the control plane answers when it does not do what was asked: the one place where an error
//! becomes a status, and where what this server does not have is named.

use std::io;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cube_containerd::ContainerdError;
use serde::Serialize;
use thiserror::Error;

/// SDKs try again after some statuses unless this says that it is of no use.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// What E2B has and this server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// `pause`, and with it `autoPause` and `autoResume`.
    Pause,
    /// Snapshots of sandboxes.
    Snapshots,
    /// `fork`.
    Fork,
    /// Building templates.
    Builds,
    /// Volumes.
    Volumes,
    /// The gateway for MCP servers.
    Mcp,
    /// Secrets and tokens for other services.
    Secrets,
    /// Rules for what a sandbox may connect to.
    Egress,
}

impl Missing {
    fn name(self) -> &'static str {
        match self {
            Missing::Pause => "pausing and resuming sandboxes",
            Missing::Snapshots => "snapshots of sandboxes",
            Missing::Fork => "forking sandboxes",
            Missing::Builds => "building templates",
            Missing::Volumes => "volumes",
            Missing::Mcp => "the MCP gateway",
            Missing::Secrets => "secrets and identity tokens",
            Missing::Egress => "rules for a sandbox's outgoing traffic",
        }
    }
}

/// Why a request was not done.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No key came with it.
    #[error("an API key is required: send it in the header X-API-KEY")]
    NoKey,
    /// Nobody has this key.
    #[error("the API key is not valid")]
    WrongKey,
    /// The request itself makes no sense.
    #[error("{field}: {why}")]
    Invalid {
        /// The field, parameter or part of the request.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing at this path.
    #[error("there is no {method} {path} here")]
    NoRoute {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// No such sandbox, or another team's.
    #[error("sandbox {id:?} was not found")]
    NoSandbox {
        /// What was asked for.
        id: String,
    },
    /// No such template.
    #[error("template {name:?} was not found")]
    NoTemplate {
        /// What was asked for.
        name: String,
    },
    /// The template is not this team's to change.
    #[error("template {name:?} belongs to the server, not to your team")]
    ForeignTemplate {
        /// Its name.
        name: String,
    },
    /// The sandbox is on its way out.
    #[error("sandbox {id:?} is being killed")]
    Ending {
        /// Its name.
        id: String,
    },
    /// Not while it runs.
    #[error("sandbox {id:?} is running already")]
    Running {
        /// Its name.
        id: String,
    },
    /// E2B has it, this server has not.
    #[error("not supported by this server: {}", .0.name())]
    Missing(Missing),
    /// A team's sandboxes are all in use.
    #[error("your team has reached its limit of {limit} sandboxes")]
    TooManySandboxes {
        /// Of them.
        limit: usize,
    },
    /// A key's requests came too fast.
    #[error("more than {limit} requests a second")]
    TooManyRequests {
        /// Of them in a second.
        limit: u32,
    },
    /// containerd did not do its part.
    #[error("containerd failed")]
    Containerd {
        /// What.
        #[from]
        source: ContainerdError,
    },
    /// The sandbox's agent did not do its part.
    #[error("sandbox {id:?} did not do its part")]
    Unanswered {
        /// Its name.
        id: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("sandbox {id:?} was not {what} within {seconds} s")]
    Late {
        /// Its name.
        id: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The kernel gave no random numbers.
    #[error("no random numbers")]
    Random(#[source] io::Error),
    /// The file of keys is of no use.
    #[error("the server's keys cannot be read")]
    Keys(#[source] crate::keys::KeysError),
    /// A task of this program was dropped or has panicked.
    #[error("the server is shutting down")]
    Abandoned,
}

impl ApiError {
    /// A field that makes no sense.
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Invalid { field, why }
    }

    /// As HTTP has it.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::NoKey | ApiError::WrongKey => StatusCode::UNAUTHORIZED,
            ApiError::Invalid { .. } | ApiError::Missing(_) => StatusCode::BAD_REQUEST,
            ApiError::ForeignTemplate { .. } => StatusCode::FORBIDDEN,
            ApiError::NoRoute { .. } | ApiError::NoSandbox { .. } | ApiError::NoTemplate { .. } => {
                StatusCode::NOT_FOUND
            }
            ApiError::Ending { .. } | ApiError::Running { .. } => StatusCode::CONFLICT,
            ApiError::TooManySandboxes { .. } | ApiError::TooManyRequests { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            ApiError::Containerd { .. }
            | ApiError::Random(_)
            | ApiError::Keys(_)
            | ApiError::Unanswered { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            ApiError::Late { .. } | ApiError::Abandoned => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What a client is told: its own mistake, or all causes of ours.
    fn message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// The body of every answer that is an error. JavaScript's SDK decides by `code`, not by the status.
#[derive(Debug, Serialize)]
struct ErrorBody {
    code: u16,
    message: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, message) = (self.status(), self.message());
        if status.is_server_error() {
            tracing::error!(%status, message, "a request failed");
        }
        let code = status.as_u16();
        let mut response = (status, Json(ErrorBody { code, message })).into_response();
        let headers = response.headers_mut();
        match self {
            ApiError::TooManySandboxes { .. } => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            ApiError::TooManyRequests { .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    async fn body(error: ApiError) -> (StatusCode, Value) {
        let response = error.into_response();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn the_body_repeats_the_status_as_a_number() {
        let (status, body) = body(ApiError::NoSandbox { id: "i1".into() }).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(body["code"], 404);
        assert_eq!(body["message"], "sandbox \"i1\" was not found");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let (status, body) = body(ApiError::Missing(Missing::Volumes)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(body["message"], "not supported by this server: volumes");
    }

    #[test]
    fn a_full_team_is_told_not_to_try_again() {
        let response = ApiError::TooManySandboxes { limit: 3 }.into_response();
        assert_eq!(response.headers()["should-retry"], "false");
        let response = ApiError::TooManyRequests { limit: 3 }.into_response();
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[tokio::test]
    async fn causes_are_told() {
        let cause = io::Error::other("no seed");
        let (status, body) = body(ApiError::Random(cause)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["message"], "no random numbers: no seed");
    }
}
