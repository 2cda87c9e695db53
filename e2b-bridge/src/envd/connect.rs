// SPDX-License-Identifier: Apache-2.0
//! Connect's protocol in JSON, as far as SDKs use it (Connect protocol, "Unary-Request", "Streaming-Request"):
//! a single message is the body; of a stream, each is in an envelope, and the last one says how it ended.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::EnvdError;

/// Largest message of a client: input for a process is in one, as base64.
pub const MAX_MESSAGE: usize = 16 << 20;

const HEADER: usize = 5;
const COMPRESSED: u8 = 1;
const END: u8 = 2;

/// A message in an envelope.
pub fn envelope(message: &Value) -> Bytes {
    framed(0, message)
}

/// The end of a stream: nothing, or what went wrong.
pub fn end(error: Option<&EnvdError>) -> Bytes {
    let message = match error {
        None => json!({}),
        Some(error) => json!({"error": error.to_connect()}),
    };
    framed(END, &message)
}

fn framed(flags: u8, message: &Value) -> Bytes {
    let json = message.to_string();
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER + json.len());
    frame.push(flags);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(json.as_bytes());
    frame.into()
}

/// Takes the first whole envelope out of what was received: its JSON, or nothing yet.
pub fn take(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, EnvdError> {
    let Some((header, _)) = received.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [flags, length @ ..] = *header;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(EnvdError::invalid(format!(
            "a message of {length} bytes is longer than {MAX_MESSAGE}"
        )));
    }
    if flags & COMPRESSED != 0 {
        return Err(EnvdError::invalid("messages cannot be compressed"));
    }
    if received.len() < HEADER + length {
        return Ok(None);
    }
    let rest = received.split_off(HEADER + length);
    let message = std::mem::replace(received, rest);
    Ok(Some(message[HEADER..].to_vec()))
}

/// Whether a request is one of a stream.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/connect+json"))
}

/// The only message of a request, in an envelope or not.
pub async fn message<T: DeserializeOwned>(request: Request<Body>) -> Result<T, EnvdError> {
    let in_envelope = is_stream(request.headers());
    let body = Limited::new(request.into_body(), MAX_MESSAGE + HEADER)
        .collect()
        .await;
    let bytes = body.map_err(|error| EnvdError::invalid(format!("the request broke: {error}")))?;
    let mut bytes = bytes.to_bytes().to_vec();
    if in_envelope {
        let taken = take(&mut bytes)?;
        bytes = taken.ok_or_else(|| EnvdError::invalid("the message is not complete"))?;
    }
    parse(&bytes)
}

/// Reads a message.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, EnvdError> {
    let json = if json.is_empty() { b"{}" } else { json };
    serde_json::from_slice(json).map_err(|error| EnvdError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::Code;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_envelope_is_flags_length_and_json() {
        let bytes = envelope(&json!({"a": 1}));
        assert_eq!(&bytes[..], b"\x00\x00\x00\x00\x07{\"a\":1}");
        assert_eq!(&end(None)[..], b"\x02\x00\x00\x00\x02{}");
        let error = EnvdError::new(Code::NotFound, "no");
        let bytes = end(Some(&error));
        assert_eq!(bytes[0], END);
        let read: Value = serde_json::from_slice(&bytes[HEADER..]).unwrap();
        assert_eq!(
            read,
            json!({"error": {"code": "not_found", "message": "no"}})
        );
    }

    #[test]
    fn what_is_too_long_or_compressed_is_refused_before_it_is_there() {
        assert!(take(&mut b"\x00\xff\xff\xff\xff".to_vec()).is_err());
        assert!(take(&mut b"\x01\x00\x00\x00\x00".to_vec()).is_err());
        assert!(matches!(take(&mut b"\x00\x00".to_vec()), Ok(None)));
    }

    proptest! {
        #[test]
        fn envelopes_survive_any_cut(texts in proptest::collection::vec("\\PC{0,50}", 0..5), cut in 1usize..20) {
            let messages: Vec<_> = texts.iter().map(|text| json!({"t": text})).collect();
            let all: Vec<u8> = messages.iter().flat_map(|message| envelope(message).to_vec()).collect();
            let (mut received, mut found) = (Vec::new(), Vec::new());
            for piece in all.chunks(cut) {
                received.extend_from_slice(piece);
                while let Some(json) = take(&mut received).unwrap() {
                    found.push(serde_json::from_slice::<Value>(&json).unwrap());
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert!(received.is_empty());
        }

        #[test]
        fn garbage_does_not_panic(bytes: Vec<u8>) {
            let mut bytes = bytes;
            while let Ok(Some(_)) = take(&mut bytes) {}
        }
    }
}
