// SPDX-License-Identifier: Apache-2.0
//! Who asks on port 49983, as which user, and whether they may.

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cube_runtime::plane::Place;

use super::signature::Claim;
use super::{Code, EnvdError};
use crate::api::query;
use crate::moment::Moment;
use crate::sandbox::Sandbox;
use crate::secret::same;

/// Who processes and files belong to if nobody is named.
const DEFAULT_USER: &str = "user";

/// What a request is about, besides its body.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Parameters of its address.
    pub parameters: Vec<(String, String)>,
    /// As whom.
    pub user: String,
}

impl Asked {
    /// Reads a request, and lets it through if it has the sandbox's token, or a signature, or needs neither.
    pub fn by(request: &Request<Body>, sandbox: &Sandbox) -> Result<Self, EnvdError> {
        let parameters = query::pairs(request.uri().query().unwrap_or_default());
        let user = user(request.headers(), &parameters);
        let asked = Self { parameters, user };
        let token = sandbox.record().access_token;
        let is_health = request.uri().path() == "/health" && request.method() == Method::GET;
        if is_health || has_token(request.headers(), &token) {
            return Ok(asked);
        }
        if request.uri().path() != "/files" {
            let words = "the header X-Access-Token is missing or not that of this sandbox";
            return Err(EnvdError::new(Code::Unauthenticated, words));
        }
        asked.check_signature(request.method(), &token)?;
        Ok(asked)
    }

    /// A parameter of the address; an empty one is none.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        query::value(&self.parameters, name)
    }

    /// A path as this user means it.
    pub fn place(&self, path: &str) -> Place {
        Place::of_user(path, self.user.as_str())
    }

    fn check_signature(&self, method: &Method, token: &str) -> Result<(), EnvdError> {
        let missing = || {
            EnvdError::new(
                Code::Unauthenticated,
                "missing signature query parameter or X-Access-Token header",
            )
        };
        let signature = self.parameter("signature").ok_or_else(missing)?;
        let claim = claim(&self.parameters, method);
        claim.check(signature, token, Moment::now())
    }
}

/// Whether an address without a sandbox's name was signed with this sandbox's token, expired or not.
pub fn is_signed_for(uri: &Uri, method: &Method, sandbox: &Sandbox) -> bool {
    let parameters = query::pairs(uri.query().unwrap_or_default());
    let signature = query::value(&parameters, "signature").unwrap_or_default();
    let token = sandbox.record().access_token;
    same(signature, &claim(&parameters, method).sign(&token))
}

fn claim<'a>(parameters: &'a [(String, String)], method: &Method) -> Claim<'a> {
    let value = |name| query::value(parameters, name);
    Claim {
        path: value("path").unwrap_or_default(),
        operation: match *method {
            Method::GET => "read",
            _ => "write",
        },
        user: value("username").unwrap_or_default(),
        expiration: value("signature_expiration"),
    }
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers
        .get("x-access-token")
        .and_then(|given| given.to_str().ok());
    given.is_some_and(|given| same(given, token))
}

/// The address's, or that of basic authentication without a password.
fn user(headers: &HeaderMap, parameters: &[(String, String)]) -> String {
    let by_header = || {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        text.split_once(':').map(|(user, _)| user.to_owned())
    };
    let by_address = query::value(parameters, "username").map(str::to_owned);
    by_address
        .or_else(by_header)
        .filter(|user| !user.is_empty())
        .unwrap_or_else(|| DEFAULT_USER.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_named_in_one_of_two_ways() {
        let basic = HeaderMap::from_iter([(
            header::AUTHORIZATION,
            format!("Basic {}", STANDARD.encode("root:"))
                .parse()
                .unwrap(),
        )]);
        assert_eq!(user(&basic, &[]), "root");
        assert_eq!(user(&HeaderMap::new(), &[]), "user");
        let address = query::pairs("username=me");
        assert_eq!(user(&basic, &address), "me");
    }

    #[test]
    fn a_token_is_compared_whole() {
        let with = |token: &'static str| {
            HeaderMap::from_iter([("x-access-token".parse().unwrap(), token.parse().unwrap())])
        };
        assert!(has_token(&with("abc"), "abc"));
        assert!(!has_token(&with("ab"), "abc"));
        assert!(!has_token(&with("abcd"), "abc"));
        assert!(!has_token(&HeaderMap::new(), "abc"));
    }
}
