// SPDX-License-Identifier: Apache-2.0
//! The containerd versions that must work, and where programs and images are.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// A release series of containerd. `dev/setup` unpacks one version of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Series {
    /// Debian 12 ships it.
    V1_6,
    /// Debian 13 ships it.
    V1_7,
    /// Debian unstable ships it.
    V2_1,
}

impl Series {
    /// All, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_6, Self::V1_7, Self::V2_1];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        }
    }

    /// The directory of its programs.
    pub fn programs(self) -> PathBuf {
        cache().join("containerd").join(self.name()).join("bin")
    }

    /// Whether it was unpacked here.
    pub fn is_present(self) -> bool {
        self.programs().join("containerd").exists()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where `dev/` keeps what it fetched and built.
pub fn cache() -> PathBuf {
    env::var_os("CUBE_CACHE").map_or_else(|| "/var/cache/cube".into(), PathBuf::from)
}

/// An image archive that `dev/images` has built.
pub fn image_archive(name: &str) -> PathBuf {
    cache().join("images").join(format!("{name}.tar"))
}

/// The directory that all of ours is in.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in a checkout")
}

/// Our own programs.
pub fn our_programs() -> PathBuf {
    let profile = match env::var("CUBE_PROFILE") {
        Ok(profile) if profile == "debug" => "debug",
        _ => "release",
    };
    checkout().join("target").join(profile)
}

/// The guest image to test with.
pub fn guest_image() -> PathBuf {
    env::var_os("CUBE_IMAGE").map_or_else(|| checkout().join("target/image"), PathBuf::from)
}
