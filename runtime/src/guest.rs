// SPDX-License-Identifier: Apache-2.0
//! The guest as its agent shows it.

use std::time::Duration;

use thiserror::Error;

use crate::error::Kind;
use crate::exit::VmmExit;

/// What can go wrong with one call to the agent.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The agent answered with an error.
    #[error("the guest refused to {call}: {message}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// The class the agent gave.
        kind: Kind,
        /// The agent's words.
        message: String,
    },
    /// The agent did not answer in time.
    #[error("the guest did not {call} within {limit:?}")]
    Timeout {
        /// What was asked.
        call: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The machine ended.
    #[error("the machine ended before the guest could {call}: {exit}")]
    Ended {
        /// What was asked.
        call: &'static str,
        /// How it ended.
        exit: VmmExit,
    },
}

impl GuestError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            GuestError::Refused { kind, .. } => *kind,
            GuestError::Timeout { .. } => Kind::DeadlineExceeded,
            GuestError::Ended { .. } => Kind::Unavailable,
        }
    }
}
