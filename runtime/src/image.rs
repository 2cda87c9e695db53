// SPDX-License-Identifier: Apache-2.0
//! The guest image: kernel and initramfs, checked against their manifest.
//!
//! Hashing both takes some ten milliseconds, so it is done once for each version of the files and each
//! boot of the host: a stamp in the run directory (a tmpfs) remembers what was checked. A file that was
//! cut or overwritten has another stamp, so it is found here and not as a guest that never answers.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::error::Kind;

/// Names a kernel may have in the image directory; the first one there is used.
const KERNEL_NAMES: [&str; 2] = ["vmlinuz", "vmlinux"];

/// Read size while hashing.
const CHUNK: usize = 1 << 16;

/// The parts of `manifest.json` that matter at a start.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    /// `uname -r` of the guest.
    pub kernel_release: String,
    /// Version of the agent in the initramfs.
    pub agent_version: String,
    /// Digest of its kernel.
    pub kernel_sha256: String,
    /// Digest of its initramfs.
    pub initramfs_sha256: String,
}

impl Manifest {
    /// Reads the manifest of the image in `dir`; the image's other files are not touched.
    pub(crate) fn read(dir: &Path) -> Result<Self, ImageError> {
        read_manifest(&dir.join("manifest.json"))
    }
}

/// An open guest image.
#[derive(Debug)]
pub struct GuestImage {
    /// What it says it is.
    pub manifest: Manifest,
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initramfs.
    pub initramfs: OwnedFd,
}

impl GuestImage {
    /// Opens the image in `dir`; `run` is where the stamp of a checked one is kept.
    pub fn open(dir: &Path, run: &Path) -> Result<Self, ImageError> {
        let manifest = Manifest::read(dir)?;
        let kernel_path = KERNEL_NAMES
            .into_iter()
            .map(|name| dir.join(name))
            .find(|path| path.exists())
            .unwrap_or_else(|| dir.join(KERNEL_NAMES[0]));
        let parts = [
            ("kernel", kernel_path, &manifest.kernel_sha256),
            (
                "initramfs",
                dir.join("initramfs"),
                &manifest.initramfs_sha256,
            ),
        ];
        let mut files = Vec::new();
        let mut identity = String::new();
        for (what, path, digest) in &parts {
            let open = || -> io::Result<(File, String)> {
                let file = File::open(path)?;
                let of_this = identity_of(&file, digest)?;
                Ok((file, of_this))
            };
            let (file, of_this) = open().map_err(|source| ImageError::Open {
                what,
                path: path.clone(),
                source,
            })?;
            files.push(file);
            identity.push_str(&of_this);
        }
        let stamp = run.join("image-checked");
        if fs::read_to_string(&stamp).is_ok_and(|checked| checked == identity) {
            tracing::trace!("the guest image was checked before");
        } else {
            for (file, (what, path, digest)) in files.iter().zip(&parts) {
                check_digest(file, what, path, digest)?;
            }
            if let Err(error) = keep_stamp(&stamp, &identity) {
                tracing::warn!(path = %stamp.display(), %error, "the guest image will be checked again next time");
            }
        }
        let mut files = files.into_iter().map(OwnedFd::from);
        let mut next = || files.next().expect("one file was opened for each part");
        Ok(Self {
            kernel: next(),
            initramfs: next(),
            manifest,
        })
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, ImageError> {
    let bytes = fs::read(path).map_err(|source| ImageError::Open {
        what: "manifest",
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| ImageError::Manifest {
        path: path.into(),
        source,
    })
}

/// Changes when the file is replaced, cut or written to; the digest is part of it so that a new
/// manifest beside old files is checked too.
fn identity_of(file: &File, digest: &str) -> io::Result<String> {
    let meta = file.metadata()?;
    Ok(format!(
        "{}:{} {} {}.{} {}.{} {digest}\n",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

fn check_digest(
    mut file: &File,
    what: &'static str,
    path: &Path,
    expected: &str,
) -> Result<(), ImageError> {
    let open = |source| ImageError::Open {
        what,
        path: path.into(),
        source,
    };
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).map_err(open)? {
            0 => break,
            len => hash.update(chunk.get(..len).unwrap_or_default()),
        }
    }
    let found = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    });
    if found == expected {
        // The VMM reads from the start again.
        io::Seek::rewind(&mut file).map_err(open)
    } else {
        Err(ImageError::Damaged {
            what,
            path: path.into(),
            found,
            expected: expected.into(),
        })
    }
}

fn keep_stamp(stamp: &Path, identity: &str) -> io::Result<()> {
    let fresh = stamp.with_extension(format!("{}", std::process::id()));
    if let Some(run) = stamp.parent() {
        fs::create_dir_all(run)?;
    }
    fs::write(&fresh, identity)?;
    fs::rename(&fresh, stamp)
}

/// What can be wrong with the guest image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file is missing or unreadable.
    #[error("the guest's {what} {} could not be read", path.display())]
    Open {
        /// Which part.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("the guest's manifest {} is none", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file is not the one that was built.
    #[error(
        "the guest's {what} {} is damaged: its sha256 is {found}, the manifest says {expected}",
        path.display()
    )]
    Damaged {
        /// Which part.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: String,
        /// The manifest's digest of it.
        expected: String,
    },
}

impl ImageError {
    /// The class of this failure.
    pub fn kind(&self) -> Kind {
        match self {
            ImageError::Open { .. } | ImageError::Manifest { .. } | ImageError::Damaged { .. } => {
                Kind::FailedPrecondition
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect()
    }

    fn image(dir: &Path) {
        fs::write(dir.join("vmlinuz"), "kernel").unwrap();
        fs::write(dir.join("initramfs"), "init").unwrap();
        let manifest = format!(
            r#"{{"kernel_release":"6.12","agent_version":"0","kernel_sha256":"{}","initramfs_sha256":"{}"}}"#,
            hex(b"kernel"),
            hex(b"init"),
        );
        fs::write(dir.join("manifest.json"), manifest).unwrap();
    }

    #[test]
    fn a_whole_image_opens_at_its_start_twice() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        for _ in 0..2 {
            let opened = GuestImage::open(dir.path(), &dir.path().join("run")).unwrap();
            let mut text = String::new();
            File::from(opened.kernel).read_to_string(&mut text).unwrap();
            assert_eq!(text, "kernel");
        }
        assert!(dir.path().join("run/image-checked").exists());
    }

    #[test]
    fn a_cut_kernel_is_found_even_after_a_good_check() {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        GuestImage::open(dir.path(), dir.path()).unwrap();
        fs::write(dir.path().join("vmlinuz"), "ker").unwrap();
        let error = GuestImage::open(dir.path(), dir.path()).unwrap_err();
        assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("vmlinuz"), "{error}");
    }

    #[test]
    fn each_missing_file_is_named() {
        for name in ["vmlinuz", "initramfs", "manifest.json"] {
            let dir = tempfile::tempdir().unwrap();
            image(dir.path());
            fs::remove_file(dir.path().join(name)).unwrap();
            let error = GuestImage::open(dir.path(), dir.path()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
