// SPDX-License-Identifier: Apache-2.0
//! Stores that are full, read-only or impossible.

use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A file system of its own for a store, gone when it is dropped.
struct Small(PathBuf);

impl Small {
    /// Needs root; without it, says so.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        match mount(
            "tmpfs",
            at,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        ) {
            Ok(()) => Some(Self(at.into())),
            Err(errno) => {
                println!("skipped: no file system can be mounted here: {errno}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_before_and_while_building_and_leaves_nothing() {
    let bed = Bed::new();
    let Some(_small) = Small::mount(bed.store.dir(), "size=64k") else {
        return;
    };
    let mut large = wanted();
    large.room_bytes = 100 << 20;
    let error = bed.claim_this(&large, make_files).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("needs 100") && text.contains("cube template gc"),
        "{text}"
    );
    assert_eq!(bed.builds(), 0);

    let lock = bed.store.dir().join(format!(".lock.{}", wanted().name()));
    fs::remove_file(lock).unwrap();
    let fill = |into: &Path| {
        make_files(into)?;
        let path = into.join("more");
        fs::write(&path, [1; 1 << 20]).map_err(|source| BuildError::File { path, source })
    };
    let error = bed.claim_this(&wanted(), fill).await.unwrap_err();
    assert!(chain(&error).contains("No space left"), "{error}");
    assert!(bed.names().is_empty());
}

#[tokio::test]
async fn a_read_only_store_gives_what_it_has_and_an_error_that_helps_for_the_rest() {
    let bed = Bed::new();
    let Some(small) = Small::mount(bed.store.dir(), "size=4m") else {
        return;
    };
    bed.claim().await.unwrap();
    mount_remount(&small.0, MountFlags::RDONLY, "").unwrap();
    bed.claim().await.unwrap();
    assert_eq!(bed.builds(), 1);
    let error = bed
        .claim_this(&wanted_by("0.2.0"), make_files)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("writable directory") && text.contains("`templates`"),
        "{text}"
    );
    assert_eq!(bed.builds(), 1);
}

#[tokio::test]
async fn a_store_below_a_file_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let bed = Bed {
        store: Store::new(file.path().join("t"), LIMITS),
        ..Bed::new()
    };
    let error = bed.claim().await.unwrap_err();
    assert!(
        matches!(error, Unavailable::Store(StoreError::Write { .. })),
        "{error}"
    );
}
