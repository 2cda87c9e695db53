// SPDX-License-Identifier: Apache-2.0
//! The image files: `store/images/<id>.img`, cloned by FICLONE, and the empty base they begin with.
//!
//! A new image is a file without a name until it is published under its number, so a crash or an
//! error before that leaves nothing behind. Before it gets its name it gets its draft record as an
//! extended attribute, which is how `reconcile` recognizes it.
//!
//! It knows no keys, parents or rules: that is the catalog's. It never copies: a file system that
//! cannot clone is refused when the store is opened (`storage`).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::catalog::is_full;
use crate::ext4::{self, Superblock};
use crate::record::{DraftState, ImageId};
use crate::size::ByteSize;

/// Where an image carries its `DraftState`, as JSON.
const DRAFT_ATTRIBUTE: &str = "user.cube.draft";
/// Most bytes an extended attribute can have (`XATTR_SIZE_MAX`).
const DRAFT_MAX_BYTES: usize = 64 << 10;
/// `statfs` type of XFS.
const XFS_MAGIC: i64 = 0x5846_5342;

/// Why an image could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing} {}", path.display())]
pub struct ImageError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ImageError {
    /// Whether the file is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the disk, or a quota, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

type Result<T> = std::result::Result<T, ImageError>;

/// Space and inodes that a snapshot takes, its parents not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and so on.
    pub inodes: u64,
}

/// The directory of images.
pub(crate) struct Images {
    dir: File,
    path: PathBuf,
    base: PathBuf,
    /// Whether syncing the directory alone makes new images durable: see [`Images::sync_new`].
    is_xfs: bool,
}

/// A clone that has no name yet. Dropping it leaves nothing.
pub(crate) struct NewImage<'a> {
    images: &'a Images,
    file: File,
}

/// An image that has its name and, unless kept, loses it again.
pub(crate) struct Published<'a> {
    images: &'a Images,
    id: Option<ImageId>,
}

impl Images {
    /// Opens the images in `store`, and makes the empty base of `size` if there is none yet.
    pub(crate) fn open(store: &Path, size: ByteSize) -> std::result::Result<Self, OpenError> {
        let path = store.join("images");
        let bases = store.join("base");
        for dir in [&path, &bases] {
            fs::create_dir_all(dir).map_err(at("make the directory", dir))?;
        }
        let base = bases.join(format!("{size}.img"));
        if !base.exists() {
            ext4::make_empty(&base, size)?;
            tracing::info!(base = %base.display(), "made the empty root image");
        }
        let dir = File::open(&path).map_err(at("open", &path))?;
        let kind = rustix::fs::fstatfs(&dir).map_err(at("look at", &path))?;
        Ok(Self {
            dir,
            path,
            base,
            is_xfs: kind.f_type == XFS_MAGIC,
        })
    }

    /// The file of an image.
    pub(crate) fn path_of(&self, id: ImageId) -> PathBuf {
        self.path.join(format!("{id}.img"))
    }

    /// The file that a child of `parent` begins with: the parent's image, or the empty base.
    fn origin(&self, parent: Option<ImageId>) -> PathBuf {
        parent.map_or_else(|| self.base.clone(), |id| self.path_of(id))
    }

    /// A new image with the content of `parent`'s, sharing all its blocks.
    pub(crate) fn clone_of(&self, parent: Option<ImageId>) -> Result<NewImage<'_>> {
        let origin = self.origin(parent);
        let source = File::open(&origin).map_err(at("open the image", &origin))?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(at("make a file in", &self.path))?;
        rustix::fs::ioctl_ficlone(&file, &source).map_err(at("clone", &origin))?;
        let file = file.into();
        Ok(NewImage { images: self, file })
    }

    /// Opens an image to look at it.
    pub(crate) fn open_image(&self, id: ImageId) -> Result<File> {
        let path = self.path_of(id);
        File::open(&path).map_err(at("open the image", &path))
    }

    /// Reads an image's superblock.
    pub(crate) fn superblock(&self, id: ImageId) -> Result<Superblock> {
        let image = self.open_image(id)?;
        Superblock::read(&image).map_err(at("read the superblock of", &self.path_of(id)))
    }

    /// Brings an image's data to disk.
    pub(crate) fn sync(&self, id: ImageId) -> Result<()> {
        let image = self.open_image(id)?;
        image
            .sync_all()
            .map_err(at("write to disk", &self.path_of(id)))
    }

    /// Brings to disk that new images exist with the content they were cloned with.
    ///
    /// XFS logs clone, attribute and name in this order, and syncing the directory writes the log
    /// up to the last name; data that a running container writes to the image meanwhile is left
    /// alone. Btrfs keeps no such order short of a full commit.
    pub(crate) fn sync_new(&self) -> io::Result<()> {
        if self.is_xfs {
            self.dir.sync_all()
        } else {
            rustix::fs::syncfs(&self.dir).map_err(Into::into)
        }
    }

    /// Removes an image; one that is not there is removed already. Whoever has it open or mounted
    /// keeps it until they let go.
    pub(crate) fn remove(&self, id: ImageId) -> Result<()> {
        let path = self.path_of(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(at("remove the image", &path)(source))
            }
            _ => Ok(()),
        }
    }

    /// The numbers of all images. Files with other names are none of ours and stay.
    pub(crate) fn ids(&self) -> Result<Vec<ImageId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at("list", &self.path))? {
            let name = entry.map_err(at("list", &self.path))?.file_name();
            ids.extend(id_in(&name));
        }
        Ok(ids)
    }

    /// The draft that an image carries, if it carries one that can be read.
    pub(crate) fn draft(&self, id: ImageId) -> Result<Option<DraftState>> {
        let image = self.open_image(id)?;
        let mut bytes = vec![0; DRAFT_MAX_BYTES];
        match rustix::fs::fgetxattr(&image, DRAFT_ATTRIBUTE, &mut bytes[..]) {
            Ok(length) => Ok(serde_json::from_slice(&bytes[..length]).ok()),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(at("read the draft of", &self.path_of(id))(errno)),
        }
    }

    /// What an image takes beyond what its parent's does.
    ///
    /// Both counts are of allocated blocks, shared or not, so the difference is what was added.
    /// A block of the parent that was overwritten in place counts as the parent's: telling the two
    /// apart would mean reading every extent of the image on each call, and kubelet calls for every
    /// container every ten seconds.
    pub(crate) fn usage(&self, id: ImageId, parent: Option<ImageId>) -> Result<Usage> {
        let measure = |path: &Path| -> Result<Usage> {
            let image = File::open(path).map_err(at("open the image", path))?;
            let metadata = image.metadata().map_err(at("look at", path))?;
            let superblock =
                Superblock::read(&image).map_err(at("read the superblock of", path))?;
            Ok(Usage {
                bytes: metadata.blocks() * 512,
                inodes: superblock.used_inodes().into(),
            })
        };
        let own = measure(&self.path_of(id))?;
        let inherited = measure(&self.origin(parent))?;
        Ok(Usage {
            bytes: own.bytes.saturating_sub(inherited.bytes),
            inodes: own.inodes.saturating_sub(inherited.inodes),
        })
    }
}

impl<'a> NewImage<'a> {
    /// Writes the draft onto the image. False if it is too big for an attribute of this file system.
    pub(crate) fn describe(&self, draft: &[u8]) -> Result<bool> {
        match rustix::fs::fsetxattr(&self.file, DRAFT_ATTRIBUTE, draft, XattrFlags::empty()) {
            Ok(()) => Ok(true),
            // XFS says the first, Btrfs the second, which also stands for a full disk: then the
            // next step fails with the same.
            Err(Errno::TOOBIG | Errno::RANGE | Errno::NOSPC) => Ok(false),
            Err(errno) => Err(at("describe a new image in", &self.images.path)(errno)),
        }
    }

    /// Gives the image its name. The number must be fresh from the catalog: a file that has it
    /// already is what a failed change could not take back.
    pub(crate) fn publish(self, id: ImageId) -> Result<Published<'a>> {
        let path = self.images.path_of(id);
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = || rustix::fs::linkat(CWD, &own, CWD, &path, AtFlags::SYMLINK_FOLLOW);
        let linked = match link() {
            Err(Errno::EXIST) => {
                self.images.remove(id)?;
                link()
            }
            other => other,
        };
        linked.map_err(at("name the new image", &path))?;
        Ok(Published {
            images: self.images,
            id: Some(id),
        })
    }
}

impl Published<'_> {
    /// The catalog has its record: it stays.
    pub(crate) fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.id.map(|id| self.images.remove(id)) {
            tracing::warn!(
                error = crate::chain(&error),
                "an unused image stays until the next start"
            );
        }
    }
}

/// Why the images could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The empty base could not be made.
    #[error(transparent)]
    Base(#[from] ext4::MakeError),
}

fn id_in(name: &OsStr) -> Option<ImageId> {
    let digits = name.to_str()?.strip_suffix(".img")?;
    let id: ImageId = digits.parse().ok()?;
    (id.to_string() == digits).then_some(id)
}

fn at<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> ImageError {
    move |error| ImageError {
        doing,
        path: path.into(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_are_image_names() {
        for (name, id) in [
            ("7.img", Some(7)),
            ("07.img", None),
            ("+7.img", None),
            ("7.img.bak", None),
            ("x.img", None),
            (".img", None),
            ("99999999999999999999.img", None),
        ] {
            assert_eq!(id_in(OsStr::new(name)), id, "{name}");
        }
    }
}
