// SPDX-License-Identifier: Apache-2.0
//! Who asks: the key in a request's header.

use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::Api;
use crate::error::ApiError;
use crate::keys::Caller;

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let key = key(&parts.headers).ok_or(ApiError::NoKey)?;
        api.keys.check(key, Instant::now())
    }
}

/// SDKs before 2.40 may send it as a bearer.
fn key(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    text("x-api-key").or_else(|| text(header::AUTHORIZATION.as_str())?.strip_prefix("Bearer "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_in_one_of_two_headers() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        assert_eq!(key(&with("x-api-key", "e2b_1")), Some("e2b_1"));
        assert_eq!(key(&with("authorization", "Bearer e2b_1")), Some("e2b_1"));
        assert_eq!(key(&with("authorization", "Basic x")), None);
        assert_eq!(key(&HeaderMap::new()), None);
    }
}
