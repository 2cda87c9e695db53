// SPDX-License-Identifier: Apache-2.0
//! The directory of each sandbox: `<run>/sandboxes/<16 hex digits>/`, for root alone.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Hex digits of a key that name its directory: short enough for a socket path, 64 bits against collisions.
const NAME_DIGITS: usize = 16;

/// Who a sandbox is: unique among all containerds of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// Where sandboxes are.
#[derive(Clone, Debug)]
pub struct Layout {
    run: PathBuf,
}

impl Layout {
    /// The layout below a run directory ([`crate::Config::run`]).
    pub fn new(run: impl Into<PathBuf>) -> Self {
        Self { run: run.into() }
    }

    /// The directory of one sandbox, whether it exists or not.
    pub fn path(&self, key: &SandboxKey) -> PathBuf {
        self.sandboxes().join(key.name())
    }

    /// The directory of all sandboxes.
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("sandboxes")
    }

    /// The run directory itself.
    pub fn run(&self) -> &Path {
        &self.run
    }
}
