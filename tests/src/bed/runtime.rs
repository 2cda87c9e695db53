// SPDX-License-Identifier: Apache-2.0
//! What is tested, and what it is told.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SMALL;

/// The runtime under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Ours, with our snapshotter.
    Cube,
    /// runc with overlayfs: to test the tests, and to compare with.
    Runc,
    /// runc with our snapshotter: to test that alone.
    RuncOnOurDisks,
}

impl Runtime {
    /// What `CUBE_TEST_RUNTIME` says (`runc`, `runc+cube`), and ours otherwise.
    pub fn tested() -> Self {
        match env::var("CUBE_TEST_RUNTIME").as_deref() {
            Ok("runc") => Self::Runc,
            Ok("runc+cube") => Self::RuncOnOurDisks,
            _ => Self::Cube,
        }
    }

    /// As containerd's clients name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cube => "io.cube.v1",
            Self::Runc | Self::RuncOnOurDisks => "io.containerd.runc.v2",
        }
    }

    /// Where its containers' root file systems come from.
    pub fn snapshotter(self) -> &'static str {
        match self {
            Self::Cube | Self::RuncOnOurDisks => "cube",
            Self::Runc => "overlayfs",
        }
    }
}

/// What our shim's configuration file says in a test.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of another guest image than the bed's.
    pub image: Option<PathBuf>,
    /// Longest time for a guest to come up.
    pub boot_timeout: Duration,
    /// More lines.
    pub more: &'static str,
}

impl Default for Settings {
    /// A guest that is emulated on a busy host may need minutes. One that hangs is told by the shim
    /// still before [`STEP_LIMIT`](crate::bounded::STEP_LIMIT) ends its client.
    fn default() -> Self {
        Self {
            image: None,
            boot_timeout: Duration::from_secs(200),
            more: "",
        }
    }
}

/// containerd's configuration. Version 2 of the format is understood from 1.6 to 2.x.
pub(super) fn containerd_config(state: &Path, run: &Path) -> String {
    let (state, run) = (state.display(), run.display());
    format!(
        r#"version = 2
root = "{state}/containerd"
state = "{run}/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[debug]
  level = "warn"
[grpc]
  address = "{run}/containerd.sock"
[proxy_plugins.cube]
  type = "snapshot"
  address = "{run}/snapshotter.sock"
[proxy_plugins.{SMALL}]
  type = "snapshot"
  address = "{run}/small.sock"
"#
    )
}
