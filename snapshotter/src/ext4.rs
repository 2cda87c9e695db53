// SPDX-License-Identifier: Apache-2.0
//! The ext4 file system inside an image: made once, empty, and looked at through its superblock.
//! Nothing here mounts anything.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::size::ByteSize;
use crate::tool::{Tool, ToolError};
use crate::young;

const MKFS: Tool = Tool {
    name: "mkfs.ext4",
    package: "e2fsprogs",
};
const DEBUGFS: Tool = Tool {
    name: "debugfs",
    package: "e2fsprogs",
};

/// Features and layout of every image.
/// * no journal: a clone would copy it, a read-only view could not replay it, and the guest's disk
///   cache is flushed by the guest, not by a journal of its own;
/// * no `resize_inode`: it would put 4 MiB of reserved descriptors into each base;
/// * `sparse_super2` with no backup superblock and packed metadata: three extents instead of
///   seventeen. A clone's cost follows the number of extents;
/// * `discard` on a fresh sparse file lets mkfs mark the inode tables as already zero, so that no
///   kernel that mounts an image ever zeroes 160 MiB of them in the background, as it would after
///   `lazy_itable_init`;
/// * no blocks reserved for root, who owns a container's disk anyway.
const MKFS_OPTIONS: [&str; 11] = [
    "-q",
    "-F",
    "-b",
    "4096",
    "-m",
    "0",
    "-O",
    "^has_journal,^resize_inode,sparse_super2",
    "-E",
    "discard,packed_meta_blocks=1,num_backup_sb=0",
    "--",
];

/// Why the empty image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A program failed.
    #[error("could not make an empty ext4 image {}", path.display())]
    Tool {
        /// The image.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: ToolError,
    },
    /// The file could not be written.
    #[error("could not write the empty ext4 image {}", path.display())]
    File {
        /// The image.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Makes the empty image at `path`, complete and on disk, or leaves nothing under that name.
pub(crate) fn make_empty(path: &Path, size: ByteSize) -> Result<(), MakeError> {
    let file_error = |source| MakeError::File {
        path: path.into(),
        source,
    };
    let tool_error = |source| MakeError::Tool {
        path: path.into(),
        source,
    };
    let young = young::path_for(path).map_err(file_error)?;
    let file = File::create_new(&young)
        .and_then(|_| File::options().read(true).write(true).open(&young))
        .map_err(file_error)?;
    file.set_len(size.bytes()).map_err(file_error)?;
    let arguments = MKFS_OPTIONS.iter().map(AsRef::as_ref);
    MKFS.run(arguments.chain([young.as_os_str()]))
        .map_err(tool_error)?;
    // A container's root directory shows what its image holds and nothing else.
    let remove = ["-w", "-R", "rmdir lost+found"].map(AsRef::as_ref);
    DEBUGFS
        .run(remove.into_iter().chain([young.as_os_str()]))
        .map_err(tool_error)?;
    let fresh = Superblock::read(&file).map_err(file_error)?;
    if !fresh.is_clean() {
        let source = io::Error::other("mkfs.ext4 left no clean file system");
        return Err(file_error(source));
    }
    file.sync_all().map_err(file_error)?;
    fs::rename(&young, path).map_err(file_error)?;
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(file_error)
}

/// What matters of an ext4 superblock (Linux `Documentation/filesystems/ext4/super.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    magic: u16,
    state: u16,
    inodes: u32,
    free_inodes: u32,
}

/// The superblock begins here, whatever the block size.
const SUPERBLOCK_OFFSET: u64 = 1024;
const MAGIC: u16 = 0xef53;
/// `s_state` of a file system that was unmounted cleanly and has seen no error. Without a journal the
/// kernel clears it on disk while the file system is mounted for writing.
const STATE_CLEAN: u16 = 1;

impl Superblock {
    pub(crate) fn read(image: &File) -> io::Result<Self> {
        let mut bytes = [0; 0x40];
        image.read_exact_at(&mut bytes, SUPERBLOCK_OFFSET)?;
        let le16 = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let le32 = |at: usize| u32::from(le16(at)) | u32::from(le16(at + 2)) << 16;
        Ok(Self {
            inodes: le32(0x00),
            free_inodes: le32(0x10),
            magic: le16(0x38),
            state: le16(0x3a),
        })
    }

    /// Nobody has it mounted for writing, whoever had it unmounted it properly, and no error was
    /// seen. True for a host's mount, another mount namespace's, and a microVM's alike.
    pub(crate) fn is_clean(self) -> bool {
        self.magic == MAGIC && self.state == STATE_CLEAN
    }

    /// Files, directories and so on. The kernel brings it up to date when it unmounts.
    pub(crate) fn used_inodes(self) -> u32 {
        self.inodes.saturating_sub(self.free_inodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_image_is_clean_small_and_without_lost_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.img");
        make_empty(&path, ByteSize::gib(10)).unwrap();
        let image = File::open(&path).unwrap();
        let superblock = Superblock::read(&image).unwrap();
        assert!(superblock.is_clean());
        // Inodes 1 to 10 are reserved; lost+found would be the eleventh.
        assert_eq!(superblock.used_inodes(), 10);
        let allocated = std::os::unix::fs::MetadataExt::blocks(&image.metadata().unwrap()) * 512;
        assert!(allocated < 256 << 10, "{allocated} bytes allocated");
        assert_eq!(image.metadata().unwrap().len(), 10 << 30);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_ext4_is_not_clean() {
        let file = tempfile::tempfile().unwrap();
        assert!(Superblock::read(&file).is_err());
        file.set_len(1 << 20).unwrap();
        assert!(!Superblock::read(&file).unwrap().is_clean());
    }
}
