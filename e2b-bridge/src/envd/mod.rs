// SPDX-License-Identifier: Apache-2.0
//! Port 49983: what E2B's daemon answers in its sandboxes, answered here for any image.
//!
//! Processes and files by Connect's protocol in JSON ([`connect`]), file contents and figures by plain HTTP.
//! All of it is a translation to [`cube_runtime::plane`]; paths and users are the guest's to judge.

mod compose;
mod connect;
mod entry;
mod error;
mod filesystem;
mod health;
mod process;
mod read;
mod request;
mod signature;
mod stream;
mod watch;
mod watchers;
mod write;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::sandbox::Sandbox;

pub use error::{Code, EnvdError};
pub use request::is_signed_for;
pub use watchers::Watchers;

use request::Asked;

/// The port.
pub const PORT: u16 = 49983;

/// Answers a request to a sandbox's port 49983. Browsers may ask from anywhere.
pub async fn answer(sandbox: Arc<Sandbox>, request: Request<Body>) -> Response {
    let mut response = match request.method() {
        &Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => route(sandbox, request).await,
    };
    let headers = response.headers_mut();
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        headers.insert(name, HeaderValue::from_static("*"));
    }
    response
}

async fn route(sandbox: Arc<Sandbox>, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    let asked = match Asked::by(&request, &sandbox) {
        Ok(asked) => asked,
        Err(error) => return error.into_response(),
    };
    if let Some(method) = path.strip_prefix("/process.Process/") {
        return process::call(&sandbox, &asked, method, request).await;
    }
    if let Some(method) = path.strip_prefix("/filesystem.Filesystem/") {
        return filesystem::call(&sandbox, &asked, method, request).await;
    }
    let answered = match (request.method(), path.as_str()) {
        (&Method::GET, "/health") => Ok(StatusCode::NO_CONTENT.into_response()),
        (&Method::GET, "/metrics") => health::metrics(&sandbox).await,
        (&Method::GET, "/envs") => Ok(health::environment(&sandbox)),
        (&Method::GET, "/files") => read::get(&sandbox, &asked, request.headers()).await,
        (&Method::POST, "/files") => write::post(&sandbox, &asked, request).await,
        (&Method::POST, "/files/compose") => compose::post(&sandbox, request).await,
        _ => Err(EnvdError::new(
            Code::NotFound,
            format!("there is no {path} here"),
        )),
    };
    answered.unwrap_or_else(EnvdError::into_response)
}
