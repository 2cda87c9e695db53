// SPDX-License-Identifier: Apache-2.0
//! `POST /files`: files of a client, as a form or as plain bytes.

use std::collections::BTreeMap;
use std::io::Write as _;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, header};
use axum::response::{IntoResponse as _, Response};
use cube_runtime::PlaneError;
use cube_runtime::plane::{Entry, FileWriter};
use flate2::write::GzDecoder;
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};

use super::EnvdError;
use super::request::Asked;
use crate::sandbox::Sandbox;

const METADATA: &str = "x-metadata-";
/// Compressed bytes that are unpacked at once: a thousandfold of this is held in memory at worst.
const PACKED_PIECE: usize = 4096;

/// Answers it.
pub async fn post(
    sandbox: &Sandbox,
    asked: &Asked,
    request: Request<Body>,
) -> Result<Response, EnvdError> {
    let headers = request.headers().clone();
    let kind = text(&headers, header::CONTENT_TYPE.as_str());
    let metadata = metadata(&headers);
    let upload = Upload {
        sandbox,
        asked,
        metadata: &metadata,
    };
    let body = request.into_body().into_data_stream();
    let written = match multer::parse_boundary(kind) {
        Ok(boundary) => upload.form(multer::Multipart::new(body, boundary)).await?,
        Err(_) => {
            let is_packed = text(&headers, header::CONTENT_ENCODING.as_str()) == "gzip";
            vec![upload.bytes(body, is_packed).await?]
        }
    };
    Ok(Json(written).into_response())
}

struct Upload<'a> {
    sandbox: &'a Sandbox,
    asked: &'a Asked,
    metadata: &'a BTreeMap<String, String>,
}

impl Upload<'_> {
    /// Each part named `file` is one; its name is its path unless the address has one.
    async fn form(&self, mut form: multer::Multipart<'_>) -> Result<Vec<Value>, EnvdError> {
        let mut written = Vec::new();
        while let Some(mut field) = form.next_field().await.map_err(broken)? {
            if field.name() != Some("file") {
                continue;
            }
            let given = self.asked.parameter("path").or(field.file_name());
            let path = given.ok_or_else(no_path)?.to_owned();
            let mut file = self.begin(&path).await?;
            while let Some(bytes) = field.chunk().await.map_err(broken)? {
                let sent = file.write(&bytes).await;
                sent.map_err(|error| self.failed(error, &path))?;
            }
            written.push(self.finish(file, &path).await?);
        }
        if written.is_empty() {
            return Err(EnvdError::invalid("the form has no part of the name file"));
        }
        Ok(written)
    }

    /// The body is the file.
    async fn bytes(
        &self,
        mut body: impl Stream<Item = Result<Bytes, axum::Error>> + Unpin,
        is_packed: bool,
    ) -> Result<Value, EnvdError> {
        let path = self.asked.parameter("path").ok_or_else(no_path)?;
        let mut file = self.begin(path).await?;
        let mut unpacker = is_packed.then(|| GzDecoder::new(Vec::new()));
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(broken)?;
            for piece in bytes.chunks(PACKED_PIECE) {
                let plain = match &mut unpacker {
                    None => piece.to_vec(),
                    Some(unpacker) => {
                        unpacker.write_all(piece).map_err(broken)?;
                        std::mem::take(unpacker.get_mut())
                    }
                };
                let sent = file.write(&plain).await;
                sent.map_err(|error| self.failed(error, path))?;
            }
        }
        if let Some(unpacker) = unpacker {
            let rest = unpacker.finish().map_err(broken)?;
            let sent = file.write(&rest).await;
            sent.map_err(|error| self.failed(error, path))?;
        }
        self.finish(file, path).await
    }

    async fn begin(&self, path: &str) -> Result<FileWriter, EnvdError> {
        let place = self.asked.place(path);
        let begin = async {
            let plane = self.sandbox.plane().await?;
            plane.write(&place, self.metadata).await
        };
        begin.await.map_err(|error| self.failed(error, path))
    }

    async fn finish(&self, file: FileWriter, path: &str) -> Result<Value, EnvdError> {
        let written = file.finish().await;
        let entry = written.map_err(|error| self.failed(error, path))?;
        Ok(answer(&entry))
    }

    fn failed(&self, error: PlaneError, path: &str) -> EnvdError {
        EnvdError::of_plane(error, &self.asked.user, path)
    }
}

fn answer(entry: &Entry) -> Value {
    let mut answer = json!({"path": entry.path, "name": entry.name, "type": "file"});
    if !entry.metadata.is_empty() {
        answer["metadata"] = json!(entry.metadata);
    }
    answer
}

fn metadata(headers: &HeaderMap) -> BTreeMap<String, String> {
    let pairs = headers.iter().filter_map(|(name, value)| {
        let key = name.as_str().strip_prefix(METADATA)?;
        Some((key.to_owned(), value.to_str().ok()?.to_owned()))
    });
    pairs.collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

fn no_path() -> EnvdError {
    EnvdError::invalid("the file has no path")
}

fn broken(error: impl std::error::Error) -> EnvdError {
    EnvdError::invalid(format!("the upload broke: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_in_headers() {
        let headers = HeaderMap::from_iter([
            ("x-metadata-a".parse().unwrap(), "1".parse().unwrap()),
            ("x-other".parse().unwrap(), "2".parse().unwrap()),
        ]);
        assert_eq!(
            metadata(&headers),
            [("a".to_owned(), "1".to_owned())].into()
        );
    }
}
