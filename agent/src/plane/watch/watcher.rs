// SPDX-License-Identifier: Apache-2.0
//! What the kernel says about watched directories, in the words of those who asked. Follows directories that
//! come, and forgets those that go.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::WatchKind;
use rustix::fs::inotify::{ReadFlags, Reader, WatchFlags, add_watch, remove_watch};
use rustix::fs::{OFlags, fstatfs};
use rustix::io::Errno;

use super::super::entry;
use super::super::fault::PlaneFault;
use super::super::listing;
use super::super::view::View;
use crate::stage::proc_path;

/// Directories of one watch. The kernel keeps about a kilobyte of memory for each.
const MAX_DIRECTORIES: usize = 8192;

/// Bytes of events that are read at once: some hundred.
const READ_BYTES: usize = 16 * 1024;

/// Events that are gathered before they are told.
const MAX_EVENTS: usize = 1024;

/// File systems of the kernel, whose files change without a word: proc, sysfs and cgroup2, as linux/magic.h
/// numbers them. They are not descended into.
const SILENT: [i64; 3] = [0x9fa0, 0x6265_6572, 0x6367_7270];

/// Everything that is told, and the end of the directory itself.
const MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// The state of one watch.
#[derive(Debug)]
pub struct Watcher {
    /// Absolute, in the container.
    path: PathBuf,
    recursive: bool,
    include_entry: bool,
    /// Watch descriptor to path below the directory; the directory itself is empty.
    directories: HashMap<i32, PathBuf>,
    top: i32,
    is_over: bool,
}

/// What the kernel said.
struct Raw {
    wd: i32,
    flags: ReadFlags,
    name: Option<PathBuf>,
}

impl Watcher {
    /// Watches a directory, and those below if it is to be recursive.
    pub fn begin(
        view: &View,
        inotify: impl AsFd,
        path: PathBuf,
        recursive: bool,
        include_entry: bool,
    ) -> Result<Self, PlaneFault> {
        let mut watcher = Self {
            path,
            recursive,
            include_entry,
            directories: HashMap::new(),
            top: -1,
            is_over: false,
        };
        watcher.top = watcher.add(view, &inotify, Path::new(""))?;
        if recursive {
            watcher.add_below(view, &inotify, Path::new(""), &mut |_| {})?;
        }
        Ok(watcher)
    }

    /// Whether the directory is gone.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// What happened since the last time; a bounded part of it.
    pub fn events(
        &mut self,
        view: &View,
        inotify: impl AsFd,
    ) -> Result<Vec<wire::WatchEvent>, PlaneFault> {
        let mut events = Vec::new();
        while events.len() < MAX_EVENTS && !self.is_over {
            let raw = read(&inotify)
                .map_err(|errno| PlaneFault::file("watch", &self.path)(errno.into()))?;
            if raw.is_empty() {
                break;
            }
            for raw in raw {
                self.understand(view, &inotify, &raw, &mut events)?;
            }
        }
        Ok(events)
    }

    fn understand(
        &mut self,
        view: &View,
        inotify: impl AsFd,
        raw: &Raw,
        events: &mut Vec<wire::WatchEvent>,
    ) -> Result<(), PlaneFault> {
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            events.push(event(WatchKind::OVERFLOW, Path::new("")));
            return Ok(());
        }
        if raw
            .flags
            .intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT)
        {
            self.directories.remove(&raw.wd);
            self.is_over |= raw.wd == self.top;
            return Ok(());
        }
        let Some(directory) = self.directories.get(&raw.wd) else {
            return Ok(());
        };
        let name = match &raw.name {
            Some(name) => directory.join(name),
            // About a directory itself: those below are told by the one that they are in.
            None if raw.wd == self.top => PathBuf::from("."),
            None => return Ok(()),
        };
        let Some(kind) = kind(raw.flags) else {
            return Ok(());
        };
        events.push(self.event(view, kind, &name));
        if self.recursive && raw.flags.contains(ReadFlags::ISDIR) {
            match kind {
                WatchKind::CREATE => self.follow(view, inotify, &name, events)?,
                WatchKind::RENAME => self.forget(inotify, &name),
                _ => {}
            }
        }
        Ok(())
    }

    /// A directory that came: what is in it already was made before it could be watched.
    fn follow(
        &mut self,
        view: &View,
        inotify: impl AsFd,
        name: &Path,
        events: &mut Vec<wire::WatchEvent>,
    ) -> Result<(), PlaneFault> {
        let mut found = Vec::new();
        let followed = self.add(view, &inotify, name).and_then(|_| {
            self.add_below(view, &inotify, name, &mut |path| {
                found.push(path.to_path_buf());
            })
        });
        match followed {
            // Gone again.
            Ok(()) | Err(PlaneFault::NoPath { .. } | PlaneFault::NotADirectory { .. }) => {}
            // The rest cannot be followed, and whoever asked has to know.
            Err(PlaneFault::TooMany { .. }) => {
                events.push(event(WatchKind::OVERFLOW, Path::new("")));
            }
            Err(fault) => return Err(fault),
        }
        for path in found {
            events.push(self.event(view, WatchKind::CREATE, &path));
        }
        Ok(())
    }

    /// Directories that went to another place are watched by the kernel still.
    fn forget(&mut self, inotify: impl AsFd, name: &Path) {
        self.directories.retain(|wd, path| {
            let goes = path.starts_with(name);
            if goes && let Err(errno) = remove_watch(&inotify, *wd) {
                tracing::debug!(%errno, "a watch was gone already");
            }
            !goes
        });
    }

    fn add_below(
        &mut self,
        view: &View,
        inotify: impl AsFd,
        name: &Path,
        found: &mut dyn FnMut(&Path),
    ) -> Result<(), PlaneFault> {
        let mut rest = vec![name.to_path_buf()];
        while let Some(directory) = rest.pop() {
            let path = self.path.join(&directory);
            let names = match listing::names(view, &path, listing::MAX_ENTRIES) {
                Ok(names) => names,
                Err(full @ PlaneFault::TooMany { .. }) => return Err(full),
                // Gone, or nothing that can be looked into.
                Err(fault) => {
                    tracing::debug!(%fault, "not watched");
                    continue;
                }
            };
            for name in names {
                let below = directory.join(name);
                found(&below);
                if !self.is_directory(view, &below) {
                    continue;
                }
                match self.add(view, &inotify, &below) {
                    Ok(_) => rest.push(below),
                    Err(full @ PlaneFault::TooMany { .. }) => return Err(full),
                    Err(fault) => tracing::debug!(%fault, "not watched"),
                }
            }
        }
        Ok(())
    }

    /// Whether it is a directory whose changes the kernel tells.
    fn is_directory(&self, view: &View, name: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY;
        let found = view.root.find(&self.path.join(name), flags);
        found.is_ok_and(|fd| fstatfs(fd).is_ok_and(|fs| !SILENT.contains(&fs.f_type)))
    }

    fn add(&mut self, view: &View, inotify: impl AsFd, name: &Path) -> Result<i32, PlaneFault> {
        let too_many = || PlaneFault::TooMany {
            what: "directories in one watch",
            most: MAX_DIRECTORIES,
        };
        if self.directories.len() >= MAX_DIRECTORIES {
            return Err(too_many());
        }
        let path = self.path.join(name);
        let failed = |error| PlaneFault::file("watch", &path)(error);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = view.root.find(&path, flags).map_err(failed)?;
        match add_watch(inotify, proc_path(&directory), MASK) {
            Ok(wd) => {
                self.directories.insert(wd, name.to_path_buf());
                Ok(wd)
            }
            // The kernel's limit, not the disk's.
            Err(Errno::NOSPC) => Err(too_many()),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn event(&self, view: &View, kind: WatchKind, name: &Path) -> wire::WatchEvent {
        let mut event = event(kind, name);
        if self.include_entry && !matches!(kind, WatchKind::REMOVE | WatchKind::RENAME) {
            // What is gone again has no entry.
            let path = if name == Path::new(".") {
                self.path.clone()
            } else {
                self.path.join(name)
            };
            event.entry = entry::look(view, &path).ok().into();
        }
        event
    }
}

fn event(kind: WatchKind, name: &Path) -> wire::WatchEvent {
    let mut event = wire::WatchEvent::new();
    event.kind = kind.into();
    event.name = name.to_string_lossy().into_owned();
    event
}

fn kind(flags: ReadFlags) -> Option<WatchKind> {
    [
        (ReadFlags::CREATE, WatchKind::CREATE),
        (ReadFlags::MOVED_TO, WatchKind::CREATE),
        (ReadFlags::MODIFY, WatchKind::WRITE),
        (ReadFlags::DELETE, WatchKind::REMOVE),
        (ReadFlags::DELETE_SELF, WatchKind::REMOVE),
        (ReadFlags::MOVED_FROM, WatchKind::RENAME),
        (ReadFlags::ATTRIB, WatchKind::CHMOD),
    ]
    .into_iter()
    .find(|(flag, _)| flags.contains(*flag))
    .map(|(_, kind)| kind)
}

/// What is there to be read; nothing if there is nothing now.
fn read(inotify: impl AsFd) -> rustix::io::Result<Vec<Raw>> {
    let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => events.push(Raw {
                wd: event.wd(),
                flags: event.events(),
                name: event
                    .file_name()
                    .map(|name| Path::new(OsStr::from_bytes(name.to_bytes())).to_path_buf()),
            }),
            Err(Errno::AGAIN) => return Ok(events),
            Err(errno) => return Err(errno),
        }
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}

#[cfg(test)]
mod tests;
