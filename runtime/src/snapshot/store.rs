// SPDX-License-Identifier: Apache-2.0
//! The directory of snapshots. A snapshot appears there by a rename and is never written to again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cube_protocol::PROTOCOL_VERSION;
use cube_vmm::fingerprint::of_host;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::record::FORMAT;
use super::{DISK, MEMORY, RECORD, STATE, SnapshotError, SnapshotName, SnapshotRecord, clone};
use crate::config::Config;
use crate::template::next_data;

/// All snapshots of a host.
#[derive(Clone, Debug)]
pub struct Snapshots {
    dir: PathBuf,
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    dir: PathBuf,
    pub(crate) record: SnapshotRecord,
}

impl Snapshots {
    /// Where the configuration has them.
    pub fn of(config: &Config) -> Self {
        Self {
            dir: config.snapshots.clone(),
        }
    }

    /// The directory of one, whether it is there or not.
    pub(super) fn path(&self, name: &SnapshotName) -> PathBuf {
        self.dir.join(name.as_str())
    }

    /// What is there, the oldest first. What is not a snapshot is left out.
    pub fn list(&self) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let failed = SnapshotError::file(&self.dir);
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(&failed)?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let name = entry.map_err(&failed)?.file_name();
            let Some(Ok(name)) = name.to_str().map(str::parse::<SnapshotName>) else {
                continue;
            };
            match self.find(&name) {
                Ok(snapshot) => records.push(snapshot.record),
                // Removed while it was looked at.
                Err(SnapshotError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        records.sort_by(|a, b| (a.created_s, &a.name).cmp(&(b.created_s, &b.name)));
        Ok(records)
    }

    /// One by name.
    pub(crate) fn find(&self, name: &SnapshotName) -> Result<Snapshot, SnapshotError> {
        let dir = self.path(name);
        let path = dir.join(RECORD);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = name.to_string();
                return Err(SnapshotError::Unknown { name });
            }
            bytes => bytes.map_err(|source| SnapshotError::File {
                path: path.clone(),
                source,
            })?,
        };
        let record = serde_json::from_slice(&bytes);
        let record = record.map_err(|source| SnapshotError::Record { path, source })?;
        Ok(Snapshot { dir, record })
    }

    /// Removes one. Sandboxes that run from it, and snapshots of those, keep what they have.
    pub fn remove(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        let snapshot = self.find(name)?;
        // Away at once, and then bit by bit.
        let gone = self.dir.join(format!(".gone.{name}"));
        remove_dir(&gone)?;
        fs::rename(&snapshot.dir, &gone).map_err(|source| SnapshotError::File {
            path: snapshot.dir,
            source,
        })?;
        remove_dir(&gone)?;
        self.remove_bases()
    }

    /// The last snapshot takes the copies of templates along.
    fn remove_bases(&self) -> Result<(), SnapshotError> {
        let _alone = self.lock()?;
        if !self.list()?.is_empty() {
            return Ok(());
        }
        for base in self.hidden(".base.")? {
            fs::remove_file(&base).map_err(SnapshotError::file(&base))?;
        }
        Ok(())
    }

    /// Keeps others from making or removing copies of templates for as long as the result lives.
    fn lock(&self) -> Result<File, SnapshotError> {
        let failed = SnapshotError::file(&self.dir);
        let dir = File::open(&self.dir).map_err(&failed)?;
        flock(&dir, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(dir)
    }

    /// A directory to make one in, of the caller's own: two programs may be at the same name.
    pub(super) fn begin(&self, name: &SnapshotName) -> Result<Scratch, SnapshotError> {
        if self.path(name).exists() {
            let name = name.to_string();
            return Err(SnapshotError::Exists { name });
        }
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        let made = builder.create(&self.dir);
        made.map_err(SnapshotError::file(&self.dir))?;
        let _alone = self.lock()?;
        self.remove_abandoned()?;
        let own = format!(".new.{name}.{}", rustix::process::getpid().as_raw_nonzero());
        let dir = self.dir.join(own);
        let failed = SnapshotError::file(&dir);
        builder.recursive(false).create(&dir).map_err(&failed)?;
        let lock = File::open(&dir).map_err(&failed)?;
        let locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|errno| failed(errno.into()))?;
        Ok(Scratch {
            dir,
            _lock: lock,
            published: false,
        })
    }

    /// Removes what killed programs were making: the lock on it ended with them.
    fn remove_abandoned(&self) -> Result<(), SnapshotError> {
        for path in self.hidden(".new.")? {
            let dir = File::open(&path).map_err(SnapshotError::file(&path))?;
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove_dir(&path)?;
            }
        }
        Ok(())
    }

    /// What has a name that begins so.
    fn hidden(&self, beginning: &str) -> Result<Vec<PathBuf>, SnapshotError> {
        let failed = SnapshotError::file(&self.dir);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(beginning.as_bytes()) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// A clone of a template's memory at `path`.
    pub(super) fn clone_template(
        &self,
        template: &str,
        memory: &Path,
        path: &Path,
    ) -> Result<File, SnapshotError> {
        let _alone = self.lock()?;
        clone::clone_new(&self.base(template, memory)?, path)
    }

    /// The memory of a template on the file system of the snapshots, for them to be clones of. Made once, by
    /// whoever needs it first.
    fn base(&self, template: &str, memory: &Path) -> Result<PathBuf, SnapshotError> {
        let base = self.dir.join(format!(".base.{template}.bin"));
        if base.exists() {
            return Ok(base);
        }
        let young = self
            .dir
            .join(format!(".base.{template}.{}.new", std::process::id()));
        let failed = |source| SnapshotError::File {
            path: young.clone(),
            source,
        };
        let made = match clone::clone_new(memory, &young) {
            Err(SnapshotError::Clone { .. }) => {
                // std copies holes as holes, and what it cannot clone piece by piece.
                fs::remove_file(&young).map_err(failed)?;
                copy_sparse(memory, &young).map_err(failed)
            }
            other => other.map(drop),
        };
        made?;
        fs::rename(&young, &base).map_err(failed)?;
        Ok(base)
    }
}

impl Snapshot {
    /// Whether it can go on here.
    pub(crate) fn check(&self, kvm: BorrowedFd<'_>) -> Result<(), SnapshotError> {
        let here = of_host(kvm).map_err(SnapshotError::Host)?;
        let record = &self.record;
        let compared = [
            ("format", record.format.to_string(), FORMAT.to_string()),
            (
                "protocol",
                record.protocol.to_string(),
                PROTOCOL_VERSION.to_string(),
            ),
            ("processor", record.host.cpu.clone(), here.cpu),
            ("KVM", record.host.kvm.clone(), here.kvm),
        ];
        match compared.into_iter().find(|(_, found, here)| found != here) {
            None => Ok(()),
            Some((what, found, expected)) => Err(SnapshotError::Mismatch {
                name: record.name.clone(),
                what,
                found,
                expected,
            }),
        }
    }

    /// Its memory, which nobody writes to.
    pub(crate) fn memory_path(&self) -> PathBuf {
        self.dir.join(MEMORY)
    }

    /// Its files, readable: state, memory, disk.
    pub(crate) fn open(&self) -> Result<[File; 3], SnapshotError> {
        let open = |name: &str| {
            let path = self.dir.join(name);
            File::open(&path).map_err(|source| SnapshotError::File { path, source })
        };
        Ok([open(STATE)?, open(MEMORY)?, open(DISK)?])
    }
}

/// A directory that a snapshot is made in. Dropped unpublished it goes.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: PathBuf,
    /// Says that somebody is at it.
    _lock: File,
    published: bool,
}

impl Scratch {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new file in it.
    pub(super) fn create(&self, name: &str) -> Result<File, SnapshotError> {
        let path = self.path(name);
        clone::create(&path).map_err(|source| SnapshotError::File { path, source })
    }

    /// Writes the record, brings all of it to the disk and gives it its name.
    pub(super) fn publish(
        mut self,
        snapshots: &Snapshots,
        name: &SnapshotName,
        record: &SnapshotRecord,
    ) -> Result<(), SnapshotError> {
        let text = serde_json::to_vec_pretty(record).expect("a record is text and numbers");
        let path = self.path(RECORD);
        fs::write(&path, text).map_err(SnapshotError::file(&path))?;
        for file in [RECORD, STATE, MEMORY, DISK] {
            sync(&self.path(file)).map_err(SnapshotError::file(&self.path(file)))?;
        }
        sync(&self.dir).map_err(SnapshotError::file(&self.dir))?;
        let path = snapshots.path(name);
        match renameat_with(CWD, &self.dir, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => self.published = true,
            Err(Errno::EXIST) => {
                let name = name.to_string();
                return Err(SnapshotError::Exists { name });
            }
            Err(errno) => return Err(SnapshotError::file(&path)(errno.into())),
        }
        sync(&snapshots.dir).map_err(SnapshotError::file(&snapshots.dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = remove_dir(&self.dir)
        {
            tracing::warn!(error = %crate::error::chain(&error), "an unfinished snapshot stays");
        }
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove_dir(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SnapshotError::File {
            path: path.into(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Copies what is not a hole.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, clone::create(to)?);
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(&from, at, length)? {
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut Read::by_ref(&mut from).take(end - start), &mut to)?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn store() -> (tempfile::TempDir, Snapshots) {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots {
            dir: dir.path().join("s"),
        };
        (dir, snapshots)
    }

    fn name(text: &str) -> SnapshotName {
        text.parse().unwrap()
    }

    fn record(text: &str, created_s: u64) -> SnapshotRecord {
        serde_json::from_value(serde_json::json!({
            "format": 1, "name": text, "created_s": created_s, "source": "n/i", "parent": null,
            "vcpus": 2, "memory_mib": 2048, "protocol": PROTOCOL_VERSION,
            "host": {"cpu": "c", "kvm": "k"},
            "container": {"id": "i", "slot": 0, "read_only": false},
        }))
        .unwrap()
    }

    fn publish(snapshots: &Snapshots, text: &str, created_s: u64) -> Result<(), SnapshotError> {
        let scratch = snapshots.begin(&name(text))?;
        for file in [STATE, MEMORY, DISK] {
            scratch.create(file).unwrap();
        }
        scratch.publish(snapshots, &name(text), &record(text, created_s))
    }

    fn names(snapshots: &Snapshots) -> Vec<String> {
        let all = snapshots.list().unwrap();
        all.into_iter().map(|record| record.name).collect()
    }

    #[test]
    fn snapshots_are_published_listed_by_age_and_removed() {
        let (_dir, snapshots) = store();
        assert!(names(&snapshots).is_empty());
        publish(&snapshots, "b", 1).unwrap();
        publish(&snapshots, "a", 2).unwrap();
        assert_eq!(names(&snapshots), ["b", "a"]);
        let error = publish(&snapshots, "a", 3).unwrap_err();
        assert!(matches!(error, SnapshotError::Exists { .. }));
        snapshots.remove(&name("b")).unwrap();
        assert_eq!(names(&snapshots), ["a"]);
        let error = snapshots.remove(&name("b")).unwrap_err();
        assert!(matches!(error, SnapshotError::Unknown { .. }));
    }

    #[test]
    fn an_unfinished_one_goes_and_is_never_seen() {
        let (_dir, snapshots) = store();
        let scratch = snapshots.begin(&name("a")).unwrap();
        scratch.create(STATE).unwrap();
        assert!(names(&snapshots).is_empty());
        drop(scratch);
        assert_eq!(fs::read_dir(&snapshots.dir).unwrap().count(), 0);
        // And one that a killed program left goes with the next.
        let left = snapshots.dir.join(".new.a.1");
        fs::create_dir(&left).unwrap();
        publish(&snapshots, "a", 1).unwrap();
        assert_eq!(names(&snapshots), ["a"]);
        assert!(!left.exists());
    }

    #[test]
    fn two_that_make_one_name_do_not_meet() {
        let (_dir, snapshots) = store();
        // Of another program, as its process id says.
        let first = snapshots.begin(&name("a")).unwrap();
        let others = snapshots.dir.join(".new.a.1");
        fs::rename(&first.dir, &others).unwrap();
        let first = Scratch {
            dir: others,
            _lock: first._lock.try_clone().unwrap(),
            published: false,
        };
        for file in [STATE, MEMORY, DISK] {
            first.create(file).unwrap();
        }
        publish(&snapshots, "a", 2).unwrap();
        let late = first.publish(&snapshots, &name("a"), &record("a", 1));
        assert!(matches!(late, Err(SnapshotError::Exists { .. })));
        assert_eq!(snapshots.list().unwrap()[0].created_s, 2);
    }

    #[test]
    fn a_template_on_another_file_system_is_copied_once_without_its_holes() {
        let (dir, snapshots) = store();
        fs::create_dir(&snapshots.dir).unwrap();
        let memory = dir.path().join("memory.bin");
        let file = File::create(&memory).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[7; 4096], 32 << 20).unwrap();
        let base = snapshots.base("t", &memory).unwrap();
        let copy = File::open(&base).unwrap();
        let mut page = [0; 4096];
        copy.read_exact_at(&mut page, 32 << 20).unwrap();
        let meta = copy.metadata().unwrap();
        assert_eq!((meta.len(), page), (64 << 20, [7; 4096]));
        assert!(meta.blocks() * 512 <= 1 << 20, "{}", meta.blocks());
        fs::remove_file(&memory).unwrap();
        assert_eq!(snapshots.base("t", &memory).unwrap(), base);
        // The last snapshot takes it along.
        publish(&snapshots, "a", 1).unwrap();
        publish(&snapshots, "b", 1).unwrap();
        snapshots.remove(&name("a")).unwrap();
        assert!(base.exists());
        snapshots.remove(&name("b")).unwrap();
        assert!(!base.exists());
    }
}
