// SPDX-License-Identifier: Apache-2.0
//! The store with a builder that makes small files: who builds, who waits, what is built anew.

mod building;
mod collecting;
mod damage;
mod operators;
mod room;

use super::*;
use crate::error::chain;
use cube_snapshot::manifest::{Expected, Fingerprints, Shape};
use key::{Ingredients, TemplateKey};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for anybody's build in these tests.
const PATIENCE: Duration = Duration::from_secs(30);

const LIMITS: Limits = Limits {
    age: Duration::from_secs(86_400),
    bytes: 1 << 30,
};

fn wanted() -> Wanted {
    wanted_by("0.1.0")
}

fn wanted_by(vmm: &str) -> Wanted {
    let shape = Shape {
        vcpus: 2,
        memory_mib: 2048,
    };
    let key = TemplateKey::of(&Ingredients {
        kernel_sha256: "k",
        initramfs_sha256: "i",
        cmdline: "",
        shape,
        protocol: 1,
        vmm,
    });
    Wanted {
        expected: Expected {
            key: key.digits().into(),
            shape,
            fingerprints: Fingerprints {
                cpu: "c".into(),
                kvm: "kvm".into(),
                host_kernel: "h".into(),
                guest_kernel: "g".into(),
                kernel_sha256: "k".into(),
                initramfs_sha256: "i".into(),
                agent: "a".into(),
                protocol: 1,
                vmm: vmm.into(),
            },
        },
        key,
        room_bytes: 0,
    }
}

/// Files as small as they can be and as sparse as real ones.
fn make_files(into: &Path) -> Result<(), BuildError> {
    let write = |name: &str, bytes: &[u8], at: u64, length: u64| {
        let path = into.join(name);
        let made = File::create(&path).and_then(|file| {
            file.set_len(length)?;
            file.write_all_at(bytes, at)
        });
        made.map_err(|source| BuildError::File { path, source })
    };
    write(STATE, b"state", 0, 5)?;
    write(MEMORY, &[7; 8192], 1 << 20, 4 << 20)?;
    write(WORKING_SET, b"pages", 0, 5)
}

/// A store, and how often something was built for it.
struct Bed {
    dir: TempDir,
    store: Store,
    builds: Arc<AtomicU32>,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Store::new(dir.path().join("t"), LIMITS),
            dir,
            builds: Arc::default(),
        }
    }

    async fn claim(&self) -> Result<Template, Unavailable> {
        self.claim_this(&wanted(), make_files).await
    }

    async fn claim_this(
        &self,
        wanted: &Wanted,
        make: impl FnOnce(&Path) -> Result<(), BuildError>,
    ) -> Result<Template, Unavailable> {
        let builds = self.builds.clone();
        let made = self.store.claim(wanted, PATIENCE, |into| async move {
            builds.fetch_add(1, Ordering::SeqCst);
            make(&into)
        });
        made.await
    }

    fn builds(&self) -> u32 {
        self.builds.load(Ordering::SeqCst)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.store.dir().join(wanted().name()).join(file)
    }

    /// Everything in the store but the files of locks.
    fn names(&self) -> Vec<String> {
        self.store
            .names(|name| !name.starts_with(".lock."))
            .unwrap()
    }
}
