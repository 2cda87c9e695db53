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
