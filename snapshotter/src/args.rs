// SPDX-License-Identifier: Apache-2.0
//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use tracing::level_filters::LevelFilter;

use crate::size::ByteSize;

/// containerd snapshotter: every snapshot is one ext4 image, cloned in an instant
#[derive(Debug, Parser)]
#[command(version, after_long_help = TEACHING)]
pub struct Args {
    /// Directory of the store, made if missing, one for each containerd
    ///
    /// On XFS or Btrfs the images are plain files in it. On a file system that cannot clone files
    /// (ext4, tmpfs) an own XFS is made in one sparse file there and mounted on its `store`.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cube/snapshotter")]
    pub root: PathBuf,
    /// Unix socket that containerd dials
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/cube/snapshotter.sock"
    )]
    pub address: PathBuf,
    /// Size of a new root file system; containers see it, the disk does not until they write
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize::gib(10))]
    pub size: ByteSize,
    /// Most that an own XFS may grow to; three quarters of the free space if not given
    ///
    /// Only used when that XFS is made.
    #[arg(long, value_name = "SIZE")]
    pub pool_size: Option<ByteSize>,
    /// How much to say on stderr
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What someone must look at.
    Error,
    /// And what may explain it.
    Warn,
    /// And what happens at start and stop.
    Info,
    /// And each refused request.
    Debug,
    /// Everything, libraries included.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

const TEACHING: &str = "\
In containerd's config.toml:

  [proxy_plugins.cube]
    type = \"snapshot\"
    address = \"/run/cube/snapshotter.sock\"

then, as root:

  cube-snapshotter &
  ctr image pull --snapshotter cube IMAGE
  ctr run --rm --snapshotter cube --runtime io.cube.v1 IMAGE NAME COMMAND

It stops on SIGTERM, and loses nothing when it is killed. containerd dials again by itself, so
either may be restarted without the other. Needs root, and the programs of e2fsprogs; for an own XFS
also those of xfsprogs and a loop device.

To remove it: remove its containers and images (ctr snapshots --snapshotter cube ls is empty then),
stop it, and delete the directory of the store.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent_and_has_the_documented_defaults() {
        Args::command().debug_assert();
        let args = Args::parse_from(["cube-snapshotter"]);
        assert_eq!(args.root.to_str(), Some("/var/lib/cube/snapshotter"));
        assert_eq!(args.address.to_str(), Some("/run/cube/snapshotter.sock"));
        assert_eq!(args.size, ByteSize::gib(10));
        assert_eq!(args.pool_size, None);
    }

    #[test]
    fn wrong_size_is_explained() {
        let error = Args::try_parse_from(["x", "--size", "10GB"]).unwrap_err();
        assert!(error.to_string().contains("such as 10GiB"), "{error}");
    }
}
