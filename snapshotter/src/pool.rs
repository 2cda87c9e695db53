// SPDX-License-Identifier: Apache-2.0
//! The pool: an XFS of our own in `<root>/pool.xfs`, for a root whose file system cannot clone.
//!
//! The file is sparse: it takes what the images take and gives back what they give up (`discard`).
//! The mount belongs to the root, not to the process: after `kill -9` the next start finds it and
//! goes on. A clean stop unmounts it if no image is in use.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::size::ByteSize;
use crate::tool::{Tool, ToolError};
use crate::young;

const MKFS: Tool = Tool {
    name: "mkfs.xfs",
    package: "xfsprogs",
};
const LOSETUP: Tool = Tool {
    name: "losetup",
    package: "mount",
};

/// mkfs.xfs makes nothing below 300 MiB.
const SMALLEST: ByteSize = ByteSize::mib(320);
/// Share of the root's free space that a pool may grow to by default, in quarters.
const DEFAULT_SHARE_QUARTERS: u64 = 3;

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
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
    /// A program failed.
    #[error("could not {doing} {}", path.display())]
    Tool {
        /// What was attempted.
        doing: &'static str,
        /// The pool's file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: ToolError,
    },
    /// A pool of that size would be too small to be an XFS.
    #[error(
        "a pool of {size} in {} is too small, {SMALLEST} is the least; free some space or give \
         --root a directory on XFS or Btrfs",
        root.display()
    )]
    TooSmall {
        /// Size asked for or found.
        size: ByteSize,
        /// The root.
        root: PathBuf,
    },
    /// Something else is mounted where the pool belongs.
    #[error("{} is a mount of {found}, not of {}; unmount it", store.display(), file.display())]
    Occupied {
        /// The store directory.
        store: PathBuf,
        /// The pool's file.
        file: PathBuf,
        /// What is mounted there.
        found: String,
    },
}

/// The mounted pool. Dropping it unmounts, unless an image is in use: then the mount stays, and the
/// next start finds it.
pub(crate) struct Pool {
    store: PathBuf,
}

fn file_in(root: &Path) -> PathBuf {
    root.join("pool.xfs")
}

/// Whether `root` has a pool.
pub(crate) fn exists(root: &Path) -> bool {
    file_in(root).exists()
}

/// Makes the pool's file: complete under its name, or not there at all.
pub(crate) fn create(root: &Path, size: Option<ByteSize>) -> Result<(), PoolError> {
    let file = file_in(root);
    let size = match size {
        Some(size) => size,
        None => default_size(root)?,
    };
    if size < SMALLEST {
        let root = root.into();
        return Err(PoolError::TooSmall { size, root });
    }
    let young = young::path_for(&file).map_err(file_error("clear the way for", &file))?;
    let sparse = File::create_new(&young).map_err(file_error("make", &young))?;
    sparse
        .set_len(size.bytes())
        .map_err(file_error("size", &young))?;
    let options = ["-q", "-f", "-K", "-m", "reflink=1"].map(OsStr::new);
    MKFS.run(options.into_iter().chain([young.as_os_str()]))
        .map_err(tool_error("make an XFS in", &young))?;
    sparse
        .sync_all()
        .and_then(|()| fs::rename(&young, &file))
        .and_then(|()| File::open(root)?.sync_all())
        .map_err(file_error("write to disk", &young))?;
    tracing::info!(file = %file.display(), most = %size, "made an own XFS, as the root cannot clone files");
    Ok(())
}

impl Pool {
    /// Mounts the pool on `store`, or finds it mounted.
    pub(crate) fn open(root: &Path, store: &Path) -> Result<Self, PoolError> {
        let file = file_in(root);
        match mounted_on(root, store)? {
            None => {
                let device = attach(&file)?;
                let flags = MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID;
                rustix::mount::mount(&device, store, "xfs", flags, c"discard").map_err(
                    |error| {
                        detach(&file);
                        file_error("mount", &file)(error)
                    },
                )?;
            }
            Some(source) if source == file.as_os_str() => {
                tracing::info!(store = %store.display(), "the pool is still mounted");
            }
            Some(source) => {
                return Err(PoolError::Occupied {
                    store: store.into(),
                    file,
                    found: source.to_string_lossy().into_owned(),
                });
            }
        }
        detach(&file);
        Ok(Self {
            store: store.into(),
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let store = self.store.display();
        match rustix::mount::unmount(&self.store, UnmountFlags::NOFOLLOW) {
            Ok(()) => tracing::info!(%store, "unmounted the pool"),
            Err(Errno::BUSY) => tracing::info!(%store, "images are in use: the pool stays mounted"),
            Err(errno) => tracing::warn!(%store, error = %errno, "could not unmount the pool"),
        }
    }
}

fn default_size(root: &Path) -> Result<ByteSize, PoolError> {
    let stat = rustix::fs::statvfs(root).map_err(file_error("look at the free space of", root))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(ByteSize::at_most(free / 4 * DEFAULT_SHARE_QUARTERS))
}

/// Binds the file to a loop device, past the page cache: with both file systems caching, every block
/// of every image would be in memory twice.
fn attach(file: &Path) -> Result<String, PoolError> {
    let plain = ["--find", "--nooverlap", "--show"].map(OsStr::new);
    let direct = plain.into_iter().chain([OsStr::new("--direct-io=on")]);
    LOSETUP
        .run(direct.chain([file.as_os_str()]))
        .or_else(|error| {
            tracing::info!(error = crate::chain(&error), "no direct I/O below the pool");
            LOSETUP
                .run(plain.into_iter().chain([file.as_os_str()]))
                .map_err(tool_error("find a loop device for", file))
        })
}

/// Lets go every loop device of the file: one in use goes away with its last user, the mount; an
/// unused one, which a killed process may have left, goes now. Done at each start for that reason.
fn detach(file: &Path) {
    for device in loop_devices(file) {
        if let Err(error) = LOSETUP.run(["--detach", &device]) {
            tracing::warn!(
                device,
                error = crate::chain(&error),
                "a loop device may stay behind"
            );
        }
    }
}

/// The loop devices bound to `file`.
fn loop_devices(file: &Path) -> Vec<String> {
    let Ok(blocks) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let names = blocks.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let bound = |name: &String| {
        let backing = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
        backing.is_ok_and(|path| Path::new(path.trim_end()) == file)
    };
    names
        .filter(bound)
        .map(|name| format!("/dev/{name}"))
        .collect()
}

/// What is mounted on `store`, if anything: the file behind a loop device, or the device's number.
fn mounted_on(root: &Path, store: &Path) -> Result<Option<std::ffi::OsString>, PoolError> {
    let device = |path: &Path| {
        let metadata = fs::metadata(path);
        metadata
            .map(|m| m.dev())
            .map_err(file_error("look at", path))
    };
    let device_number = device(store)?;
    if device(root)? == device_number {
        return Ok(None);
    }
    let (major, minor) = (
        rustix::fs::major(device_number),
        rustix::fs::minor(device_number),
    );
    let backing = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
    Ok(Some(match fs::read_to_string(backing) {
        Ok(file) => file.trim_end().into(),
        Err(_) => format!("device {major}:{minor}").into(),
    }))
}

fn file_error<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> PoolError {
    move |error| PoolError::File {
        doing,
        path: path.into(),
        source: error.into(),
    }
}

fn tool_error(doing: &'static str, path: &Path) -> impl FnOnce(ToolError) -> PoolError {
    move |source| PoolError::Tool {
        doing,
        path: path.into(),
        source,
    }
}
