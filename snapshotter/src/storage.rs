// SPDX-License-Identifier: Apache-2.0
//! Where the store lives: `<root>/store`, on a file system that can clone files.
//!
//! If the root's own file system can (XFS, Btrfs), the store is a plain directory of it. If it cannot
//! (ext4, tmpfs), the root gets an XFS of its own in one sparse file, mounted on that directory
//! (`pool`). Which of the two is decided once, by the presence of that file. There is no third way:
//! nothing here ever copies an image.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::pool::{self, Pool, PoolError};
use crate::size::ByteSize;

/// Space that must be free before a snapshot is prepared or committed, here and below a pool.
///
/// A full disk shows itself to a mounted image only as failed writes, which may be noticed by nobody:
/// a layer unpacked meanwhile can have holes. So new snapshots are refused before it comes to that,
/// and a layer that was unpacked while it came to that is not accepted.
pub const HEADROOM: ByteSize = ByteSize::mib(64);

/// XFS frees the blocks of removed files in the background: whoever has just made room is not refused.
const SPACE_WAIT: Duration = Duration::from_secs(1);
const SPACE_POLL: Duration = Duration::from_millis(20);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file or directory failed.
    #[error("could not {doing} {}", path.display())]
    File {
        /// What was attempted.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store has content that a pool mounted over it would hide.
    #[error(
        "{} has content but its file system cannot clone files; move it to XFS or Btrfs, or empty it",
        path.display()
    )]
    Hidden {
        /// The store.
        path: PathBuf,
    },
    /// The root's own XFS could not be made or mounted.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Too little space is left to go on safely.
    #[error(
        "only {} MiB are free in {}, {HEADROOM} are kept back so that running containers and layers \
         lose no writes; remove containers or images, or add space",
        free >> 20,
        path.display()
    )]
    NoSpace {
        /// Free bytes.
        free: u64,
        /// Where.
        path: PathBuf,
    },
}

/// The opened store directory. Dropping it unmounts a pool that nobody uses.
pub struct Storage {
    root: PathBuf,
    store: PathBuf,
    pool: Option<Pool>,
}

impl Storage {
    /// Opens the store below `root`; `pool_size` is for a pool that has yet to be made.
    ///
    /// # Errors
    /// When there is no way to clone files.
    pub fn open(root: &Path, pool_size: Option<ByteSize>) -> Result<Self, StorageError> {
        let store = root.join("store");
        make_private(&store)?;
        let pool = if pool::exists(root) {
            Some(Pool::open(root, &store)?)
        } else if can_clone(&store)? {
            if let Some(size) = pool_size {
                tracing::info!(%size, "{} clones files itself: no pool is made", root.display());
            }
            None
        } else if !is_empty(&store)? {
            return Err(StorageError::Hidden { path: store });
        } else {
            pool::create(root, pool_size)?;
            Some(Pool::open(root, &store)?)
        };
        if pool.is_some() && !can_clone(&store)? {
            let source = Errno::OPNOTSUPP.into();
            return Err(file_error("clone a file in", &store, source));
        }
        fs::set_permissions(&store, Permissions::from_mode(0o700))
            .map_err(|source| file_error("protect", &store, source))?;
        Ok(Self {
            root: root.into(),
            store,
            pool,
        })
    }

    /// The store directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.store
    }

    /// Refuses if [`HEADROOM`] is not left.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`].
    pub fn check_headroom(&self) -> Result<(), StorageError> {
        require_headroom(&self.store)?;
        match self.pool {
            Some(_) => require_headroom(&self.root),
            None => Ok(()),
        }
    }
}

fn require_headroom(path: &Path) -> Result<(), StorageError> {
    let deadline = Instant::now() + SPACE_WAIT;
    loop {
        let free = free_bytes(path)?;
        if free >= HEADROOM.bytes() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let path = path.into();
            return Err(StorageError::NoSpace { free, path });
        }
        std::thread::sleep(SPACE_POLL);
    }
}

fn free_bytes(path: &Path) -> Result<u64, StorageError> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|errno| file_error("look at the free space of", path, errno.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Images hold everything that containers wrote: nobody but root may list them.
pub(crate) fn make_private(dir: &Path) -> Result<(), StorageError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| file_error("make the directory", dir, source))
}

/// Clones a block to see whether `dir` can, leaving nothing.
fn can_clone(dir: &Path) -> Result<bool, StorageError> {
    let fail = |source| file_error("try cloning a file in", dir, source);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let nameless = || rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).map(File::from);
    let (source, target) = match (nameless(), nameless()) {
        (Ok(source), Ok(target)) => (source, target),
        (Err(Errno::OPNOTSUPP | Errno::ISDIR), _) => return Ok(false),
        (Err(errno), _) | (_, Err(errno)) => return Err(fail(errno.into())),
    };
    source.write_all_at(&[1; 4096], 0).map_err(fail)?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {
            Ok(false)
        }
        Err(errno) => Err(fail(errno.into())),
    }
}

fn is_empty(dir: &Path) -> Result<bool, StorageError> {
    let mut entries = fs::read_dir(dir).map_err(|source| file_error("list", dir, source))?;
    Ok(entries.next().is_none())
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> StorageError {
    let path = path.into();
    StorageError::File {
        doing,
        path,
        source,
    }
}
