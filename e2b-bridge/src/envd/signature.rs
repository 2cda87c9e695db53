// SPDX-License-Identifier: Apache-2.0
//! Signed addresses of files: whoever has one may read or write that file, without a token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::{Code, EnvdError};
use crate::moment::Moment;
use crate::secret::same;

/// What a signature is for.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The path as it is in the address.
    pub path: &'a str,
    /// `read` or `write`.
    pub operation: &'a str,
    /// The user as in the address; empty: none.
    pub user: &'a str,
    /// Seconds since the epoch until which it holds, as in the address.
    pub expiration: Option<&'a str>,
}

impl Claim<'_> {
    /// What the address has to carry.
    pub fn sign(&self, token: &str) -> String {
        let Self {
            path,
            operation,
            user,
            expiration,
        } = self;
        let text = match expiration {
            Some(until) => format!("{path}:{operation}:{user}:{token}:{until}"),
            None => format!("{path}:{operation}:{user}:{token}"),
        };
        format!(
            "v1_{}",
            STANDARD_NO_PAD.encode(Sha256::digest(text.as_bytes()))
        )
    }

    /// Whether the signature is ours and still holds.
    pub fn check(&self, signature: &str, token: &str, now: Moment) -> Result<(), EnvdError> {
        if !same(signature, &self.sign(token)) {
            return Err(EnvdError::new(Code::Unauthenticated, "invalid signature"));
        }
        let Some(until) = self.expiration else {
            return Ok(());
        };
        match until.parse::<u64>() {
            Ok(until) if until >= now.seconds() => Ok(()),
            _ => Err(EnvdError::new(
                Code::Unauthenticated,
                "signature is already expired",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim<'static> = Claim {
        path: "/home/user/a.txt",
        operation: "read",
        user: "user",
        expiration: None,
    };

    #[test]
    fn a_signature_is_what_sdks_compute() {
        // printf %s '/home/user/a.txt:read:user:token' | openssl dgst -sha256 -binary | base64 | tr -d =
        assert_eq!(
            CLAIM.sign("token"),
            "v1_tE6x2QqeKriEoa6iRhiX5fCKcheLopDKKcPNfXl08qs"
        );
    }

    #[test]
    fn a_signature_holds_for_what_was_signed_alone() {
        let now = Moment(1_000_000);
        let signature = CLAIM.sign("token");
        CLAIM.check(&signature, "token", now).unwrap();
        assert!(CLAIM.check(&signature, "other", now).is_err());
        let write = Claim {
            operation: "write",
            ..CLAIM
        };
        assert!(write.check(&signature, "token", now).is_err());
        let elsewhere = Claim {
            path: "/etc/passwd",
            ..CLAIM
        };
        assert!(elsewhere.check(&signature, "token", now).is_err());
    }

    #[test]
    fn an_expired_one_says_so_in_the_words_of_sdks() {
        let claim = Claim {
            expiration: Some("999"),
            ..CLAIM
        };
        let signature = claim.sign("token");
        let error = claim
            .check(&signature, "token", Moment(1_000_000))
            .unwrap_err();
        assert_eq!(error.to_string(), "signature is already expired");
        claim.check(&signature, "token", Moment(999_000)).unwrap();
    }
}
