// SPDX-License-Identifier: Apache-2.0
//! `GET /files`: a file's bytes, to their end, whatever its size was said to be.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use cube_runtime::PlaneError;
use cube_runtime::plane::{Entry, FileReader};
use futures::stream;

use super::EnvdError;
use super::request::Asked;
use crate::sandbox::Sandbox;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u64,
    last: u64,
}

/// Answers it.
pub async fn get(
    sandbox: &Sandbox,
    asked: &Asked,
    headers: &HeaderMap,
) -> Result<Response, EnvdError> {
    let path = asked.parameter("path").unwrap_or_default();
    let place = asked.place(path);
    let failed = |error: PlaneError| EnvdError::of_plane(error, &asked.user, path);
    let plane = sandbox.plane().await.map_err(failed)?;
    let range = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok());
    let Some(range) = range else {
        let reader = plane.read(&place, 0, None).await.map_err(failed)?;
        return Ok(response(StatusCode::OK, reader));
    };
    let entry = plane.stat(&place).await.map_err(failed)?;
    match span(range, entry.size) {
        None => {
            let reader = plane.read(&place, 0, None).await.map_err(failed)?;
            Ok(response(StatusCode::OK, reader))
        }
        Some(Err(Unsatisfiable)) => Ok(unsatisfiable(&entry)),
        Some(Ok(span)) => {
            let length = span.last - span.first + 1;
            let reader = plane.read(&place, span.first, Some(length)).await;
            let mut response = response(StatusCode::PARTIAL_CONTENT, reader.map_err(failed)?);
            let text = format!("bytes {}-{}/{}", span.first, span.last, entry.size);
            insert(&mut response, header::CONTENT_RANGE, &text);
            Ok(response)
        }
    }
}

fn response(status: StatusCode, reader: FileReader) -> Response {
    let name = reader.entry().name.clone();
    let bytes = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(bytes)) => Some((Ok(Bytes::from(bytes)), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(bytes));
    *response.status_mut() = status;
    insert(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    let quoted = name.replace(['"', '\\'], "_");
    let disposition = format!("inline; filename=\"{quoted}\"");
    insert(&mut response, header::CONTENT_DISPOSITION, &disposition);
    response
}

fn unsatisfiable(entry: &Entry) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    let text = format!("bytes */{}", entry.size);
    insert(&mut response, header::CONTENT_RANGE, &text);
    response
}

/// A name of a file may not be what a header can have: then there is none.
fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Nothing of the file is in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unsatisfiable;

/// The one range of `bytes=..`; nothing if it is none that we serve, which then is as if it were not there
/// (RFC 9110, 14.2).
fn span(text: &str, size: u64) -> Option<Result<Span, Unsatisfiable>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, last) = if first.is_empty() {
        let count = number(last)?;
        if count == 0 {
            return Some(Err(Unsatisfiable));
        }
        (size.saturating_sub(count), u64::MAX)
    } else if last.is_empty() {
        (number(first)?, u64::MAX)
    } else {
        (number(first)?, number(last)?)
    };
    if first > last {
        return None;
    }
    if first >= size {
        return Some(Err(Unsatisfiable));
    }
    let last = last.min(size - 1);
    Some(Ok(Span { first, last }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, expect) in [
            ("bytes=0-4", Some(Ok((0, 4)))),
            ("bytes=2-", Some(Ok((2, 9)))),
            ("bytes=-3", Some(Ok((7, 9)))),
            ("bytes=-30", Some(Ok((0, 9)))),
            ("bytes=5-500", Some(Ok((5, 9)))),
            ("bytes=10-", Some(Err(Unsatisfiable))),
            ("bytes=-0", Some(Err(Unsatisfiable))),
            ("bytes=4-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=x-", None),
        ] {
            let found = span(text, 10).map(|span| span.map(|span| (span.first, span.last)));
            assert_eq!(found, expect, "{text}");
        }
        assert_eq!(span("bytes=0-", 0), Some(Err(Unsatisfiable)));
    }
}
