// SPDX-License-Identifier: Apache-2.0
//! What is at a path: one look through a descriptor, so that all of it is about the same file.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::EntryType;
use rustix::fs::{
    FileType, OFlags, Stat, XattrFlags, fstat, getxattr, listxattr, listxattr_query, readlinkat,
    removexattr, setxattr,
};
use rustix::io::Errno;

use super::fault::PlaneFault;
use super::view::View;
use crate::oci;
use crate::stage::proc_path;

/// What the names of metadata begin with.
const PREFIX: &str = "user.e2b.";

/// Longest list of names and longest value that the kernel has (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 * 1024;

/// Most bytes of metadata that are told of one file, so that a page of a list stays one.
const MAX_METADATA: usize = 64 * 1024;

/// Looks at a path. A link is not followed, but its type is that of what it leads to.
pub fn look(view: &View, path: &Path) -> Result<wire::Entry, PlaneFault> {
    let failed = |error| PlaneFault::file("look at", path)(error);
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let fd = view.root.find(path, flags).map_err(failed)?;
    of(view, path, &fd).map_err(failed)
}

/// Of a file that was opened, with `O_PATH` or otherwise.
pub fn of(view: &View, path: &Path, fd: &OwnedFd) -> io::Result<wire::Entry> {
    let stat = fstat(fd)?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let mut entry = wire::Entry::new();
    let name = path.file_name().unwrap_or(path.as_os_str());
    entry.name = name.to_string_lossy().into_owned();
    entry.path = path.to_string_lossy().into_owned();
    entry.size = u64::try_from(stat.st_size).unwrap_or(0);
    entry.mode = stat.st_mode & 0o7777;
    entry.permissions = permissions(file_type, entry.mode);
    entry.owner = view.accounts.user_name(stat.st_uid);
    entry.group = view.accounts.group_name(stat.st_gid);
    entry.modified_ns = modified_ns(&stat);
    let seen_type = if file_type == FileType::Symlink {
        let (target, target_type) = follow(view, path, fd)?;
        entry.symlink_target = target.to_string_lossy().into_owned();
        target_type
    } else {
        entry.metadata = metadata(fd, file_type)?;
        Some(file_type)
    };
    entry.type_ = match seen_type {
        Some(FileType::RegularFile) => EntryType::FILE,
        Some(FileType::Directory) => EntryType::DIRECTORY,
        _ => EntryType::UNKNOWN,
    }
    .into();
    Ok(entry)
}

/// Where a link leads to, and what is there.
fn follow(view: &View, path: &Path, link: &OwnedFd) -> io::Result<(PathBuf, Option<FileType>)> {
    if let Ok(target) = view.root.find(path, OFlags::PATH) {
        let target_type = FileType::from_raw_mode(fstat(&target)?.st_mode);
        let own = std::fs::read_link(proc_path(&target))?;
        if let Ok(inside) = own.strip_prefix(view.own_path()?) {
            return Ok((Path::new("/").join(inside), Some(target_type)));
        }
    }
    // It leads nowhere: what it says.
    let text = readlinkat(link, "", Vec::new())?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let target = parent.join(OsStr::from_bytes(text.as_bytes()));
    Ok((oci::absolute(&target).unwrap_or(target), None))
}

fn modified_ns(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(stat.st_mtime_nsec)
}

/// As Go's `fs.FileMode` writes it, which clients show.
fn permissions(file_type: FileType, mode: u32) -> String {
    let mut text = String::new();
    text.push_str(match file_type {
        FileType::Directory => "d",
        FileType::Symlink => "L",
        FileType::BlockDevice => "D",
        FileType::CharacterDevice => "Dc",
        FileType::Fifo => "p",
        FileType::Socket => "S",
        FileType::RegularFile | FileType::Unknown => "",
    });
    for (bit, letter) in [(0o4000, 'u'), (0o2000, 'g'), (0o1000, 't')] {
        if mode & bit != 0 {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (place, letter) in "rwxrwxrwx".chars().enumerate() {
        let is_set = mode & (0o400 >> place) != 0;
        text.push(if is_set { letter } else { '-' });
    }
    text
}

/// The metadata of a file or directory; what has none, or a file system without, has an empty one.
fn metadata(fd: &OwnedFd, file_type: FileType) -> io::Result<HashMap<String, String>> {
    if !matches!(file_type, FileType::RegularFile | FileType::Directory) {
        return Ok(HashMap::new());
    }
    let path = proc_path(fd);
    let mut metadata = HashMap::new();
    let mut bytes = 0;
    for name in names(&path)? {
        let Some(key) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let mut value = vec![0; XATTR_MAX];
        match getxattr(&path, &name, &mut value) {
            Ok(len) => value.truncate(len),
            // Removed since it was listed.
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno.into()),
        }
        bytes += key.len() + value.len();
        if bytes > MAX_METADATA {
            break;
        }
        let value = String::from_utf8_lossy(&value).into_owned();
        metadata.insert(key.to_owned(), value);
    }
    Ok(metadata)
}

/// Makes this all of a file's metadata.
pub fn set_metadata(fd: impl AsFd, metadata: &HashMap<String, String>) -> io::Result<()> {
    let path = proc_path(fd);
    for name in names(&path)? {
        let is_old = name
            .strip_prefix(PREFIX)
            .is_some_and(|key| !metadata.contains_key(key));
        if is_old {
            removexattr(&path, &name)?;
        }
    }
    for (key, value) in metadata {
        let name = format!("{PREFIX}{key}");
        setxattr(&path, &name, value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

/// Names of all extended attributes; none on a file system that knows no such thing.
fn names(path: &Path) -> io::Result<Vec<String>> {
    // Most files have none.
    match listxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut list = vec![0; XATTR_MAX];
    let len = listxattr(path, &mut list)?;
    let names = list[..len].split(|byte| *byte == 0);
    // What is not text is none of ours.
    let texts = names.filter_map(|name| std::str::from_utf8(name).ok());
    Ok(texts.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::stage::Root;

    fn view(dir: &Path) -> View {
        View::of(Root::open(dir).unwrap()).unwrap()
    }

    #[test]
    fn permissions_read_as_go_writes_them() {
        for (file_type, mode, text) in [
            (FileType::RegularFile, 0o644, "-rw-r--r--"),
            (FileType::Directory, 0o755, "drwxr-xr-x"),
            (FileType::Directory, 0o1777, "dtrwxrwxrwx"),
            (FileType::Symlink, 0o777, "Lrwxrwxrwx"),
            (FileType::RegularFile, 0o4755, "urwxr-xr-x"),
            (FileType::CharacterDevice, 0o666, "Dcrw-rw-rw-"),
        ] {
            assert_eq!(permissions(file_type, mode), text);
        }
    }

    #[test]
    fn a_file_tells_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let me = rustix::process::getuid().as_raw();
        fs::write(
            dir.path().join("etc/passwd"),
            format!("me:x:{me}:0::/:/bin/sh\n"),
        )
        .unwrap();
        fs::write(dir.path().join("f"), "four").unwrap();
        fs::set_permissions(dir.path().join("f"), fs::Permissions::from_mode(0o640)).unwrap();
        let entry = look(&view(dir.path()), Path::new("/f")).unwrap();
        assert_eq!(
            (entry.name.as_str(), entry.path.as_str(), entry.size),
            ("f", "/f", 4)
        );
        assert_eq!((entry.mode, entry.owner.as_str()), (0o640, "me"));
        assert_eq!(entry.type_.enum_value(), Ok(EntryType::FILE));
        assert!(entry.modified_ns > 0);
        let root = look(&view(dir.path()), Path::new("/")).unwrap();
        assert_eq!((root.name.as_str(), root.path.as_str()), ("/", "/"));
    }

    #[test]
    fn a_link_has_the_type_of_its_target_and_never_one_outside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("../../../../../../../real", dir.path().join("up")).unwrap();
        symlink("/etc/passwd", dir.path().join("away")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        let view = view(dir.path());
        for (link, target, kind) in [
            ("/link", "/real", EntryType::DIRECTORY),
            ("/up", "/real", EntryType::DIRECTORY),
            ("/away", "/etc/passwd", EntryType::UNKNOWN),
            ("/dangling", "/nowhere", EntryType::UNKNOWN),
        ] {
            let entry = look(&view, Path::new(link)).unwrap();
            assert_eq!(entry.symlink_target, target, "{link}");
            assert_eq!(entry.type_.enum_value(), Ok(kind), "{link}");
        }
    }

    #[test]
    fn metadata_is_replaced_as_a_whole() {
        // tmpfs has had these attributes since Linux 6.6; where the directory is may be older.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        let file = fs::File::open(&path).unwrap();
        let map = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            owned.collect::<HashMap<String, String>>()
        };
        set_metadata(&file, &map(&[("a", "1"), ("b", "2")])).unwrap();
        set_metadata(&file, &map(&[("b", "3")])).unwrap();
        let entry = look(&view(dir.path()), Path::new("/f")).unwrap();
        assert_eq!(entry.metadata, map(&[("b", "3")]));
    }
}
