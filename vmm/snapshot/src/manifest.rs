// SPDX-License-Identifier: Apache-2.0
//! `manifest.json` of a template: what was saved, on what host, from what, in which files.
//!
//! The runtime writes it last when it publishes a template and reads it first at every start, so it
//! answers two questions from a few hundred bytes: is this the template that is wanted
//! ([`Manifest::check_compatible`]), and are its files the ones that were published ([`Files`]).
//! Digests are for whoever has the time; a start compares sizes and one time stamp.
//!
//! Nothing is opened here: bytes come in, bytes go out.

mod check;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use check::{Expected, Mismatch};

/// The form of this file. A reader refuses a newer one by this number, before it looks at the rest.
pub const FORMAT: u32 = 1;

/// Longest manifest that is read: some fifty times a usual one.
pub const MAX_BYTES: usize = 64 << 10;

/// What a template says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The template key: hexadecimal digits of a digest over everything that decides what is in it.
    pub key: String,
    /// What it is for people; `base` is a booted guest that nobody has claimed.
    pub name: String,
    /// When it was published, seconds since the epoch.
    pub created_s: u64,
    /// Key of the template that its machine was restored from, if it was.
    pub parent: Option<String>,
    /// The size of its machine.
    pub shape: Shape,
    /// What it was made on and of.
    pub fingerprints: Fingerprints,
    /// The files beside the manifest.
    pub files: Files,
}

/// The size of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
}

/// Everything that must be the same where a template is used and where it was made: a guest keeps what
/// it once found out about its processor, and both ends of a protocol have to be of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprints {
    /// The host's processor, as a guest sees it.
    pub cpu: String,
    /// The host's KVM.
    pub kvm: String,
    /// The host's kernel.
    pub host_kernel: String,
    /// `uname -r` of the guest.
    pub guest_kernel: String,
    /// Digest of the guest's kernel.
    pub kernel_sha256: String,
    /// Digest of the guest's initramfs.
    pub initramfs_sha256: String,
    /// Version of the agent in it.
    pub agent: String,
    /// Version of the protocol between host and agent.
    pub protocol: u32,
    /// The VMM that saved it.
    pub vmm: String,
}

/// The files of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Processors, interrupt controllers and devices.
    pub state: Content,
    /// Guest memory.
    pub memory: Memory,
    /// Which pages a start touches. Without it a start is slower and otherwise the same.
    pub working_set: Option<Content>,
}

/// What a file is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: String,
}

/// The memory file. Nobody writes to it once it is published, which its time stamp shows without
/// reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Its length, holes included.
    pub bytes: u64,
    /// When it was last written to, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Digest of what is not zero in it.
    pub sha256: String,
}

/// The file as it is written. The checksum covers [`Manifest`] in its compact form, so that no value
/// can change unnoticed; white space may.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    format: u32,
    crc32: u32,
    template: T,
}

/// All that is read of a file before its format is known.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Why bytes are no manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Longer than any manifest is.
    #[error("the manifest has {bytes} bytes, at most {MAX_BYTES} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No JSON object with a format number.
    #[error("the manifest is cut or damaged: it has no format number")]
    Head(#[source] serde_json::Error),
    /// Written by a later version of Cube.
    #[error("the manifest has format {found}, this version reads {FORMAT}: a newer Cube wrote it")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A format that never was.
    #[error("the manifest has format {found}, which does not exist")]
    Format {
        /// Its format.
        found: u32,
    },
    /// A field is missing, unknown or of another kind.
    #[error("the manifest is cut or damaged")]
    Fields(#[source] serde_json::Error),
    /// A value is not the one that was written.
    #[error("the manifest is damaged: its crc32 is {found:#010x}, it says {expected:#010x}")]
    Checksum {
        /// Of what is there.
        found: u32,
        /// What it says.
        expected: u32,
    },
}

impl Manifest {
    /// Reads the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_BYTES {
            return Err(ManifestError::TooLong { bytes: bytes.len() });
        }
        let head: Head = serde_json::from_slice(bytes).map_err(ManifestError::Head)?;
        match head.format {
            FORMAT => {}
            found if found > FORMAT => return Err(ManifestError::Newer { found }),
            found => return Err(ManifestError::Format { found }),
        }
        let sealed: Sealed<Self> = serde_json::from_slice(bytes).map_err(ManifestError::Fields)?;
        let found = sealed.template.checksum();
        if found != sealed.crc32 {
            return Err(ManifestError::Checksum {
                found,
                expected: sealed.crc32,
            });
        }
        Ok(sealed.template)
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sealed = Sealed {
            format: FORMAT,
            crc32: self.checksum(),
            template: self,
        };
        let mut bytes = serde_json::to_vec_pretty(&sealed).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }

    fn checksum(&self) -> u32 {
        let compact = serde_json::to_vec(self).expect("strings and numbers are JSON");
        crc32fast::hash(&compact)
    }
}
