// SPDX-License-Identifier: Apache-2.0
//! What goes wrong on port 49983, as plain HTTP and as Connect's protocol tell it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cube_runtime::PlaneError;
use cube_runtime::plane::Fault;
use serde_json::{Value, json};
use thiserror::Error;

/// Connect's codes, those that are used (Connect protocol, "Error codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request makes no sense.
    InvalidArgument,
    /// Who asks is unknown.
    Unauthenticated,
    /// Who asks may not.
    PermissionDenied,
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// No room, or a limit.
    ResourceExhausted,
    /// Not here.
    Unimplemented,
    /// No answer in time.
    DeadlineExceeded,
    /// No answer at the moment.
    Unavailable,
    /// A fault of ours or of the guest's.
    Internal,
}

impl Code {
    /// Its name, and HTTP's.
    fn forms(self) -> (&'static str, StatusCode) {
        match self {
            Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
            Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
            Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
            Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
            Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
            Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
            Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
            Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
            Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
            Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// A failure, in the words that SDKs expect.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct EnvdError {
    code: Code,
    message: String,
    /// The disk is full: plain HTTP has a status of its own for that.
    is_full: bool,
}

impl EnvdError {
    /// With words of our own.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            is_full: false,
        }
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// From the agent. `subject` is the path, directory or process that was asked for.
    pub fn of_plane(error: PlaneError, user: &str, subject: &str) -> Self {
        let PlaneError::Refused { fault, message, .. } = error else {
            return Self::of_connection(&error);
        };
        let (code, message) = match fault {
            Fault::NoUser => (Code::Unauthenticated, format!("invalid username: '{user}'")),
            Fault::NoCwd => (
                Code::InvalidArgument,
                format!("cwd '{subject}' does not exist"),
            ),
            Fault::NoPath => (Code::NotFound, format!("path '{subject}' does not exist")),
            Fault::IsADirectory => (
                Code::InvalidArgument,
                format!("path '{subject}' is a directory"),
            ),
            Fault::NotADirectory => (
                Code::InvalidArgument,
                format!("path '{subject}' is not a directory"),
            ),
            Fault::NoJob => (Code::NotFound, format!("process with {subject} not found")),
            Fault::Exists => (Code::AlreadyExists, message),
            Fault::Invalid | Fault::NotStarted | Fault::SpecialFile => {
                (Code::InvalidArgument, message)
            }
            Fault::NoInput | Fault::NoTerminal => (Code::FailedPrecondition, message),
            Fault::NotPermitted => (Code::PermissionDenied, message),
            Fault::NotSupported => (Code::Unimplemented, message),
            Fault::NoSpace | Fault::TooMany => (Code::ResourceExhausted, message),
            Fault::NoContainer => (Code::Unavailable, message),
            Fault::Other => (Code::Internal, message),
        };
        Self {
            code,
            message,
            is_full: fault == Fault::NoSpace,
        }
    }

    fn of_connection(error: &PlaneError) -> Self {
        let code = match error {
            PlaneError::Timeout { .. } => Code::DeadlineExceeded,
            PlaneError::TooLong { .. } => Code::ResourceExhausted,
            PlaneError::NoSandbox { .. } | PlaneError::Dial(_) | PlaneError::Lost { .. } => {
                Code::Unavailable
            }
            PlaneError::Protocol { .. }
            | PlaneError::Malformed { .. }
            | PlaneError::Refused { .. } => Code::Internal,
        };
        tracing::warn!(%error, "a sandbox's agent did not answer");
        Self::new(code, error.to_string())
    }

    /// As a message of Connect's.
    pub fn to_connect(&self) -> Value {
        let (name, _) = self.code.forms();
        json!({"code": name, "message": self.message})
    }

    /// As the answer to a single call of Connect's.
    pub fn into_unary(self) -> Response {
        let (_, status) = self.code.forms();
        (status, Json(self.to_connect())).into_response()
    }
}

impl IntoResponse for EnvdError {
    fn into_response(self) -> Response {
        let (_, of_code) = self.code.forms();
        let status = match self.is_full {
            true => StatusCode::INSUFFICIENT_STORAGE,
            false => of_code,
        };
        let body = json!({"code": status.as_u16(), "message": self.message});
        (status, Json(body)).into_response()
    }
}
