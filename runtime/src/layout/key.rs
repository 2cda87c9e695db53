// SPDX-License-Identifier: Apache-2.0
//! Who a sandbox is.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Hex digits of a key that name its directory: short enough for a socket path, 64 bits against collisions.
const NAME_DIGITS: usize = 16;

/// Who a sandbox is: unique among all containerds of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxKey {
    /// containerd's gRPC address.
    pub address: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id (of the pod, or of its only container).
    pub id: String,
}

impl SandboxKey {
    /// The first 16 hexadecimal digits of the SHA-256 of `address/namespace/id`.
    pub fn name(&self) -> String {
        let text = format!("{}/{}/{}", self.address, self.namespace, self.id);
        let digest = Sha256::digest(text.as_bytes());
        let mut name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        name.truncate(NAME_DIGITS);
        name
    }
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_frozen_because_two_programs_compute_it() {
        let key = SandboxKey {
            address: "/run/containerd/containerd.sock".into(),
            namespace: "default".into(),
            id: "t1".into(),
        };
        // printf %s /run/containerd/containerd.sock/default/t1 | sha256sum
        assert_eq!(key.name(), "df6a0c5cd2e9a1a1");
        assert_eq!(key.to_string(), "default/t1");
    }
}
