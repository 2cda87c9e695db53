// SPDX-License-Identifier: Apache-2.0
//! Why the table is not as it should be.

use thiserror::Error;

use crate::netlink::NetlinkError;
use crate::wire::Pair;

/// Why the table is not as it should be.
#[derive(Debug, Error)]
pub enum TableError {
    /// It was not put in place; what was there before is as it was.
    #[error("the table that wires {} could not be put in place", links.join(", "))]
    Install {
        /// Each interface and its tap.
        links: Vec<String>,
        /// Why.
        source: NetlinkError,
    },
    /// What a name stands for stays out of reach.
    #[error("addresses could not be let through")]
    Admit(#[source] NetlinkError),
    /// It stays.
    #[error("the table could not be removed")]
    Remove(#[source] NetlinkError),
    /// The kernel would not say.
    #[error("the table could not be looked for")]
    Look(#[source] NetlinkError),
}

impl TableError {
    pub(super) fn install(pairs: &[Pair], source: NetlinkError) -> Self {
        let links = pairs
            .iter()
            .map(|pair| format!("{} to {}", pair.interface.name, pair.tap));
        TableError::Install {
            links: links.collect(),
            source,
        }
    }
}
