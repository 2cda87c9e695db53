// SPDX-License-Identifier: Apache-2.0
//! Where a machine is in its life, and so what may be done with it.
//!
//! ```text
//!  Unclaimed ── claim ──► Running ◄── thaw ── Reclaimed
//!  (a template)              │                    ▲
//!                            └─ quiesce ► Quiesced ─ claim
//! ```
//! A machine that is saved with its containers is saved quiesced. What goes on from there, itself or another
//! one, has to be claimed before a process of a user's runs, as a template has to be.

use crate::error::AgentError;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has no identity of its own, and nothing runs.
    Unclaimed,
    /// Containers and processes come and go.
    Running,
    /// Every process stands still, and it has no identity.
    Quiesced,
    /// It has one again; every process stands still.
    Reclaimed,
}

impl Phase {
    /// After a claim.
    pub fn claimed(self) -> Result<Self, AgentError> {
        match self {
            Phase::Unclaimed => Ok(Phase::Running),
            Phase::Quiesced => Ok(Phase::Reclaimed),
            Phase::Running | Phase::Reclaimed => Err(AgentError::Claimed),
        }
    }

    /// Whether containers and processes may be made and changed.
    pub fn check_running(self) -> Result<(), AgentError> {
        match self {
            Phase::Running => Ok(()),
            Phase::Unclaimed => Err(AgentError::NotClaimed),
            Phase::Quiesced | Phase::Reclaimed => Err(AgentError::Quiesced),
        }
    }

    /// Whether the machine itself may be changed.
    pub fn check_claimed(self) -> Result<(), AgentError> {
        match self {
            Phase::Running | Phase::Reclaimed => Ok(()),
            Phase::Unclaimed | Phase::Quiesced => Err(AgentError::NotClaimed),
        }
    }

    /// Whether what was stopped may be taken over, and go on.
    pub fn check_reclaimed(self) -> Result<(), AgentError> {
        match self {
            Phase::Reclaimed => Ok(()),
            Phase::Unclaimed | Phase::Quiesced => Err(AgentError::NotClaimed),
            Phase::Running => Err(AgentError::NotQuiesced),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_users_runs_without_an_identity() {
        assert!(Phase::Unclaimed.check_running().is_err());
        assert!(Phase::Quiesced.check_running().is_err());
        assert!(Phase::Quiesced.check_reclaimed().is_err());
        assert!(Phase::Reclaimed.check_running().is_err());
        assert_eq!(Phase::Unclaimed.claimed().unwrap(), Phase::Running);
        assert_eq!(Phase::Quiesced.claimed().unwrap(), Phase::Reclaimed);
        assert!(Phase::Running.claimed().is_err());
        assert!(Phase::Reclaimed.claimed().is_err());
    }
}
