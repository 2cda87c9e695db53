// SPDX-License-Identifier: Apache-2.0
//! What a start looks for: the key of its template, and what that must say.
//!
//! On every start, so from two small reads and a few stats: the guest image's own files are as long as
//! a start and stay closed.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cube_protocol::PROTOCOL_VERSION;
use cube_snapshot::manifest::{Expected, Fingerprints, Shape};
use cube_vmm::fingerprint::{FingerprintError, of_host};
use thiserror::Error;

use super::key::{Ingredients, TemplateKey};
use crate::config::Config;
use crate::image::{ImageError, Manifest as ImageManifest};
use crate::vmm::{self, VmmError};

/// Room that a template needs whatever its size: kernel, initramfs, agent and what they allocate.
const ROOM_BYTES: u64 = 256 << 20;

/// The part of its memory that a kernel fills with notes about its memory: 64 bytes a page (1/64), and
/// as much again for everything that grows with it.
const ROOM_SHARE: u64 = 32;

/// The template that a start needs.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(super) key: TemplateKey,
    pub(super) expected: Expected,
    /// Free space without which building it is not even begun.
    pub(super) room_bytes: u64,
}

impl Wanted {
    /// Finds out. Blocking, for some ten microseconds.
    pub(crate) fn find(
        config: &Config,
        shape: Shape,
        kvm: BorrowedFd<'_>,
    ) -> Result<Self, WantedError> {
        let image = ImageManifest::read(&config.image).map_err(WantedError::Image)?;
        let program = vmm::find(config.vmm.as_deref()).map_err(WantedError::Vmm)?;
        let vmm = vmm_version(&program).map_err(|source| WantedError::VmmFile {
            path: program.clone(),
            source,
        })?;
        let host = of_host(kvm).map_err(WantedError::Host)?;
        let key = TemplateKey::of(&Ingredients {
            kernel_sha256: &image.kernel_sha256,
            initramfs_sha256: &image.initramfs_sha256,
            cmdline: &config.cmdline,
            shape,
            protocol: PROTOCOL_VERSION,
            vmm: &vmm,
        });
        let fingerprints = Fingerprints {
            cpu: host.cpu,
            kvm: host.kvm,
            host_kernel: host.kernel,
            guest_kernel: image.kernel_release,
            kernel_sha256: image.kernel_sha256,
            initramfs_sha256: image.initramfs_sha256,
            agent: image.agent_version,
            protocol: PROTOCOL_VERSION,
            vmm,
        };
        Ok(Self {
            room_bytes: ROOM_BYTES + (u64::from(shape.memory_mib) << 20) / ROOM_SHARE,
            expected: Expected {
                key: key.digits().to_owned(),
                shape,
                fingerprints,
            },
            key,
        })
    }

    /// The size of its machine.
    pub(crate) fn shape(&self) -> Shape {
        self.expected.shape
    }

    /// The name of its directory.
    pub(crate) fn name(&self) -> &str {
        self.key.name()
    }
}

/// The VMM's version, and which build of it: two of one version may have different devices.
fn vmm_version(program: &Path) -> io::Result<String> {
    let meta = fs::metadata(program)?;
    Ok(format!(
        "{} ({} bytes of {}.{:09})",
        env!("CARGO_PKG_VERSION"),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    ))
}

/// Why it cannot be said which template a start needs.
#[derive(Debug, Error)]
pub enum WantedError {
    /// There is no guest image.
    #[error("there is no guest image to make a template of")]
    Image(#[source] ImageError),
    /// There is no VMM.
    #[error("there is no VMM to make a template with")]
    Vmm(#[source] VmmError),
    /// The VMM's binary cannot be looked at.
    #[error("{} could not be examined", path.display())]
    VmmFile {
        /// The binary.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host cannot be described.
    #[error("this host could not be described")]
    Host(#[source] FingerprintError),
}
