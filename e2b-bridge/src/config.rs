// SPDX-License-Identifier: Apache-2.0
//! The configuration file of this program, `/etc/cube/e2b.toml`; each field has a default.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::template::TemplateConfig;

/// What a server is to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BridgeConfig {
    /// Where it listens for HTTP: control plane and sandboxes' ports alike.
    pub listen: SocketAddr,
    /// Directory of the keys.
    pub state: PathBuf,
    /// containerd's socket, written as its own configuration has it.
    pub containerd: PathBuf,
    /// containerd's namespace for sandboxes and their images.
    pub namespace: String,
    /// The runtime that is to run them.
    pub runtime: String,
    /// The snapshotter for their disks.
    pub snapshotter: String,
    /// The domain below which sandboxes have names; none: the request's own host decides.
    pub domain: Option<String>,
    /// Longest life of a sandbox after its start or a new time limit, in seconds.
    pub max_timeout_s: u64,
    /// The first templates; any image in the namespace is one as well, by its name.
    pub templates: Vec<TemplateConfig>,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            state: "/var/lib/cube/e2b".into(),
            containerd: "/run/containerd/containerd.sock".into(),
            namespace: "e2b".into(),
            runtime: "io.cube.v1".into(),
            snapshotter: "cube".into(),
            domain: None,
            max_timeout_s: 24 * 3600,
            templates: TemplateConfig::defaults(),
        }
    }
}

impl BridgeConfig {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, BridgeConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| BridgeConfigError::Read {
            path: path.into(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| BridgeConfigError::Parse {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// The file of the keys.
    pub fn keys(&self) -> PathBuf {
        self.state.join("keys.json")
    }
}

/// What can be wrong with the configuration.
#[derive(Debug, Error)]
pub enum BridgeConfigError {
    /// The file could not be read.
    #[error("the configuration {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error("the configuration {} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        let read: BridgeConfig = toml::from_str("").unwrap();
        assert_eq!(read, BridgeConfig::default());
    }

    #[test]
    fn templates_of_the_file_replace_the_first_ones() {
        let read: BridgeConfig = toml::from_str(
            "listen = \"0.0.0.0:80\"\n[[templates]]\nname = \"mine\"\nimage = \"docker.io/library/mine:1\"\n",
        )
        .unwrap();
        assert_eq!(read.listen.port(), 80);
        assert_eq!(read.templates.len(), 1);
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = toml::from_str::<BridgeConfig>("listn = 1").unwrap_err();
        assert!(error.to_string().contains("listn"), "{error}");
    }
}
