// SPDX-License-Identifier: Apache-2.0
//! An egress policy: what a sandbox may send to. Plain data and its parsing; [`crate::table`] enforces it.
//!
//! ```json
//! {"default": "deny", "allow": ["93.184.216.0/24 tcp:443", "*.debian.org"], "deny": []}
//! ```
//!
//! In order, for each packet: answers to who asked first pass; what is never allowed is dropped
//! ([`Policy::never`], the operator's); then `allow` decides, then `deny`, then `default`. Allowing wins over
//! denying, as E2B's clients expect. Only TCP, UDP and ICMP pass a policy at all.

mod destination;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use destination::{Destination, DestinationError, Name, Ports, Protocol};

/// Most entries of a policy, one with several ranges of ports counting as so many: each is a rule that each
/// packet goes through.
pub const MAX_ENTRIES: usize = 256;

/// Longest text of a policy: as many entries of the longest names.
pub const MAX_TEXT: usize = 64 << 10;

/// What a sandbox may send to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What happens to everything that no entry names.
    #[serde(default)]
    pub default: Verdict,
    /// Let through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Destination>,
    /// Dropped, unless allowed. Names cannot be denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Destination>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It goes on.
    #[default]
    Allow,
    /// It is dropped.
    Deny,
}

impl Policy {
    /// Reads one from JSON, as annotations and configurations have it.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            return Err(PolicyError::TooLong { length: text.len() });
        }
        let policy: Self = serde_json::from_str(text).map_err(PolicyError::Malformed)?;
        policy.check()?;
        Ok(policy)
    }

    /// What its type does not say. Every door's policies pass here before they are used.
    pub fn check(&self) -> Result<(), PolicyError> {
        let count = self
            .allow
            .iter()
            .chain(&self.deny)
            .map(Destination::cost)
            .sum();
        if count > MAX_ENTRIES {
            return Err(PolicyError::TooMany { count });
        }
        match self.deny.iter().find(|entry| entry.name().is_some()) {
            Some(entry) => Err(PolicyError::DeniedName {
                entry: entry.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// The names that are allowed.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.allow.iter().filter_map(Destination::name)
    }

    /// Whether a name may be resolved: one that is allowed, or any where nothing is denied that is not named.
    pub fn may_resolve(&self, name: &str) -> bool {
        self.default == Verdict::Allow || self.admits(name)
    }

    /// Whether what a name stands for is let through: a name that is allowed.
    pub fn admits(&self, name: &str) -> bool {
        self.names().any(|allowed| allowed.matches(name))
    }

    /// What no entry may allow: link-local addresses (clouds answer there with the host's credentials)
    /// and the addresses of the host itself.
    pub fn never(host: impl IntoIterator<Item = IpAddr>) -> Vec<IpNet> {
        let mut never: Vec<IpNet> = ["169.254.0.0/16", "fe80::/10"]
            .map(|net| net.parse().expect("a constant is a network"))
            .into();
        never.extend(host.into_iter().map(IpNet::from));
        never.sort();
        never.dedup();
        never
    }
}

/// Why a text is no policy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// It is too long to be read.
    #[error("an egress policy of {length} bytes is too long: at most {MAX_TEXT}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// It is not the JSON of one.
    #[error(
        "not an egress policy: expected {{\"default\": \"allow\"|\"deny\", \"allow\": [...], \"deny\": [...]}}"
    )]
    Malformed(#[source] serde_json::Error),
    /// It has too many entries.
    #[error("an egress policy of {count} entries is too long: at most {MAX_ENTRIES}")]
    TooMany {
        /// Its entries.
        count: usize,
    },
    /// Addresses are dropped, not names.
    #[error("{entry}: a name can be allowed, but not denied; deny addresses instead")]
    DeniedName {
        /// The entry.
        entry: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_allowed() {
        assert_eq!(Policy::parse("{}").unwrap(), Policy::default());
    }

    #[test]
    fn text_and_policy_are_the_same() {
        let text = r#"{"default":"deny","allow":["10.0.0.0/8 tcp:80-90,443","*.debian.org"],"deny":["fd00::/8"]}"#;
        let policy = Policy::parse(text).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
        assert_eq!(policy.names().count(), 1);
    }

    #[test]
    fn names_are_resolved_where_they_are_allowed() {
        let deny = Policy::parse(r#"{"default":"deny","allow":["example.org"]}"#).unwrap();
        assert!(deny.may_resolve("example.org"));
        assert!(!deny.may_resolve("example.com"));
        assert!(Policy::default().may_resolve("example.com"));
    }

    fn refused(text: &str) -> String {
        let error = Policy::parse(text).unwrap_err();
        let mut chain = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            chain += &format!(": {source}");
        }
        chain
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        assert!(refused(r#"{"allow":["10.0.0.0/33"]}"#).contains("10.0.0.0/33"));
        assert!(refused(r#"{"alow":[]}"#).contains("alow"));
        assert!(refused(r#"{"default":"maybe"}"#).contains("maybe"));
        assert!(refused(r#"{"deny":["example.org"]}"#).contains("example.org"));
        let many = vec!["\"10.0.0.1\""; MAX_ENTRIES + 1].join(",");
        assert!(refused(&format!(r#"{{"allow":[{many}]}}"#)).contains("257"));
        assert!(refused(&" ".repeat(MAX_TEXT + 1)).contains("too long"));
    }
}
