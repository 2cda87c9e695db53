// SPDX-License-Identifier: Apache-2.0
//! Paths of a container, resolved inside of its root whatever its symbolic links say (openat2(2),
//! `RESOLVE_IN_ROOT`), and used through descriptors, so that nobody can change them in between.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// A rename elsewhere may spoil a resolution in progress; the kernel then asks for another try.
const MAX_TRIES: u32 = 32;

/// Most symbolic links that are followed to a file that is not there yet; the kernel's own limit is 40.
const MAX_LINKS: u32 = 16;

/// What is done to a file or directory that was made.
pub type Made<'a> = dyn Fn(&OwnedFd) -> io::Result<()> + 'a;

/// The root directory of a container.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// From a path of the caller's own mount namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens what a path means to the container.
    pub fn find(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlags::empty())
    }

    /// As [`Root::find`], and no part of the path may be a symbolic link.
    pub fn find_plain(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlags::NO_SYMLINKS)
    }

    /// Opens a directory; what is missing of it is made, for root, with mode 755.
    pub fn make_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_dir_as(path, &|_| Ok(()))
    }

    /// As [`Root::make_dir`], with something done to each directory that is made.
    pub fn make_dir_as(&self, path: &Path, made: &Made<'_>) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        // Most are there.
        match self.find(path, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut reached = PathBuf::from("/");
        let mut dir = self.find(&reached, flags)?;
        for name in path.strip_prefix("/").unwrap_or(path) {
            reached.push(name);
            dir = match self.find(&reached, flags) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {
                            let fresh = self.find(&reached, flags)?;
                            made(&fresh)?;
                            fresh
                        }
                        // A dangling link, or somebody was faster; the next look tells.
                        Err(Errno::EXIST) => self.find(&reached, flags)?,
                        Err(errno) => return Err(errno.into()),
                    }
                }
                other => other?,
            };
        }
        Ok(dir)
    }

    /// Opens a file; one that is missing is made, empty, for root, with mode 755 as runc does, and so are the
    /// directories above it. A link that leads nowhere yet is followed, inside of the root.
    pub fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_file_as(path, Mode::from_raw_mode(0o755), &|_| Ok(()))
    }

    /// As [`Root::make_file`], with another mode, and something done to the file and each directory that is
    /// made.
    pub fn make_file_as(&self, path: &Path, mode: Mode, made: &Made<'_>) -> io::Result<OwnedFd> {
        let mut path = path.to_path_buf();
        for _ in 0..MAX_LINKS {
            match self.find(&path, OFlags::PATH) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
            let name = path.file_name().ok_or(Errno::INVAL)?;
            let parent = self.make_dir_as(path.parent().ok_or(Errno::INVAL)?, made)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            match openat(&parent, name, flags, mode) {
                Ok(fresh) => {
                    made(&fresh)?;
                    return self.find(&path, OFlags::PATH);
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let target = readlinkat(&parent, name, Vec::new())?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            // Above the root is the root, for a path with dots as for the kernel.
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(Errno::LOOP.into())
    }

    /// Opens the directory that holds a path, which is made if it is missing, with the path's last name.
    pub fn make_parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p Path)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path.parent().ok_or(Errno::INVAL)?;
        Ok((self.make_dir(parent)?, Path::new(name)))
    }

    fn resolve(&self, path: &Path, flags: OFlags, extra: ResolveFlags) -> io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | extra;
        let flags = flags | OFlags::CLOEXEC;
        let mut tries = 0;
        loop {
            tries += 1;
            match openat2(&self.0, path, flags, Mode::empty(), how) {
                Err(Errno::AGAIN | Errno::INTR) if tries < MAX_TRIES => {}
                other => return Ok(other?),
            }
        }
    }
}

/// A path for calls that take no descriptor: it names what the descriptor holds, not what is mounted on it
/// since. Needs the caller's own /proc.
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_cannot_lead_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/etc", dir.path().join("absolute")).unwrap();
        symlink("../../../../..", dir.path().join("up")).unwrap();
        symlink(outside.path(), dir.path().join("away")).unwrap();
        let root = Root::open(dir.path()).unwrap();

        root.make_dir(Path::new("/absolute/new")).unwrap();
        assert!(dir.path().join("etc/new").is_dir());
        root.make_dir(Path::new("/up/etc/more")).unwrap();
        assert!(dir.path().join("etc/more").is_dir());
        assert!(root.make_dir(Path::new("/away/x")).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_file_is_made_where_its_link_points_to_and_never_outside() {
        let dir = tempfile::tempdir().unwrap();
        let inside = |path: &str| dir.path().join(path);
        fs::create_dir(inside("etc")).unwrap();
        fs::write(inside("etc/there"), "kept").unwrap();
        symlink("/run/resolve/stub.conf", inside("etc/resolv.conf")).unwrap();
        symlink("../../../../up.conf", inside("etc/up")).unwrap();
        symlink("loop", inside("etc/loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();

        for (path, made) in [
            ("/etc/hosts", "etc/hosts"),
            ("/a/b/c", "a/b/c"),
            ("/etc/resolv.conf", "run/resolve/stub.conf"),
            ("/etc/up", "up.conf"),
        ] {
            root.make_file(Path::new(path)).unwrap();
            let metadata = fs::symlink_metadata(inside(made)).unwrap();
            assert!(metadata.is_file() && metadata.len() == 0, "{path}");
        }
        root.make_file(Path::new("/etc/there")).unwrap();
        assert_eq!(fs::read(inside("etc/there")).unwrap(), b"kept");
        assert!(root.make_file(Path::new("/etc/loop")).is_err());
    }

    #[test]
    fn plain_paths_have_no_links_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.find_plain(Path::new("/real"), OFlags::PATH).is_ok());
        assert!(root.find_plain(Path::new("/link"), OFlags::PATH).is_err());
        assert!(root.find(Path::new("/link"), OFlags::PATH).is_ok());
    }
}
