// SPDX-License-Identifier: Apache-2.0
//! What a sandbox may send to: its policy, and what the operator lets none allow.

use cube_net::IpNet;
use cube_net::policy::Policy;
use cube_net::table::{self, Rules};
use cube_net::wire::{Pair, host_addresses};

use super::NetworkError;
use crate::config::EgressConfig;
use crate::layout::{NetworkState, Record};

/// A policy and its bounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Egress {
    /// None: the sandbox may send to anybody.
    pub(super) policy: Option<Policy>,
    /// None: what [`Policy::never`] says.
    never: Option<Vec<IpNet>>,
}

/// The same at one moment: a host's addresses change.
#[derive(Debug)]
pub(super) struct Bounded {
    policy: Policy,
    never: Vec<IpNet>,
}

impl Egress {
    pub(crate) fn new(config: &EgressConfig, policy: Option<Policy>) -> Self {
        Self {
            policy,
            never: config.never.clone(),
        }
    }

    /// Whether there is a policy.
    pub(crate) fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// Its bounds as seen from the calling thread's namespace, which has to be the host's; none without a policy.
    pub(super) fn bound(&self) -> Result<Option<Bounded>, NetworkError> {
        let Some(policy) = self.policy.clone() else {
            return Ok(None);
        };
        let never = match &self.never {
            Some(never) => never.clone(),
            None => Policy::never(host_addresses().map_err(NetworkError::Netlink)?),
        };
        Ok(Some(Bounded { policy, never }))
    }
}

impl Bounded {
    /// For the table.
    pub(super) fn rules(&self) -> Rules<'_> {
        Rules {
            policy: &self.policy,
            never: &self.never,
        }
    }
}

/// Whether a policy can take the place of another one. Names have to go through the relay, which is there from a
/// sandbox's beginning or not at all.
pub(super) fn check(policy: &Policy, is_relayed: bool) -> Result<(), NetworkError> {
    policy.check().map_err(NetworkError::Policy)?;
    match policy.names().next() {
        Some(name) if !is_relayed => Err(NetworkError::NamesLater {
            name: name.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Replaces the rules in the calling thread's namespace, if anything is wired there, and writes them down.
pub(super) fn enforce(
    record: &Record,
    pairs: &[Pair],
    bounded: &Bounded,
) -> Result<(), NetworkError> {
    if !pairs.is_empty() {
        table::enforce(pairs, bounded.rules()).map_err(NetworkError::Table)?;
    }
    let network = NetworkState {
        egress: Some(bounded.policy.clone()),
        ..record.network()
    };
    record.set_network(network).map_err(NetworkError::Record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn names_come_with_a_sandbox_or_not_at_all() {
        let named = Policy::parse(r#"{"allow":["example.org"]}"#).unwrap();
        check(&named, true).unwrap();
        check(&Policy::default(), false).unwrap();
        let error = check(&named, false).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("example.org"), "{error}");
        let denied = Policy {
            deny: named.allow,
            ..Policy::default()
        };
        let error = check(&denied, true).unwrap_err();
        assert!(matches!(error, NetworkError::Policy(_)));
    }
}
