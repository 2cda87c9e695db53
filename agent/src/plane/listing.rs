// SPDX-License-Identifier: Apache-2.0
//! Lists of directories, in the order of names, each directory before what is in it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use cube_protocol::FrameKind;
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::EntryType;
use protobuf::Message;
use rustix::fs::{Dir, OFlags};

use super::channel::{Channel, Stop};
use super::entry;
use super::fault::PlaneFault;
use super::view::View;
use super::visit::Visit;
use crate::process::Connection;

/// Levels of directories that are listed at once.
pub const MAX_DEPTH: u32 = 64;

/// Entries of one list. More are an error, because a list that was cut reads like a whole one.
pub const MAX_ENTRIES: usize = 100_000;

/// Bytes of entries in one message: far less than a frame holds, and one entry more always fits.
const PAGE_BYTES: u64 = 256 * 1024;

/// Answers that it is a directory, and sends what is in it.
pub async fn serve<C: Connection>(
    visit: &Visit,
    channel: &mut Channel<C>,
    request: wire::ListDirectory,
) -> Result<(), Stop> {
    let depth = depth(request.depth)?;
    let place = request.place.unwrap_or_default();
    let (path, first) = visit
        .block(move |view| {
            let path = view.locate(&place)?.path;
            let entries = entries(view, &path, MAX_ENTRIES)?;
            Ok((path, entries))
        })
        .await?;
    tracing::debug!(path = %path.display(), depth, "listing");
    channel.agree().await?;
    let mut room = MAX_ENTRIES - first.len();
    let mut levels = vec![first.into_iter()];
    let (mut page, mut bytes) = (wire::Entries::new(), 0);
    while let Some((path, entry)) = next(&mut levels) {
        let goes_deeper = is_real_directory(&entry) && levels.len() < depth;
        bytes += entry.compute_size();
        page.entries.push(entry);
        if bytes >= PAGE_BYTES {
            channel.tell(&std::mem::take(&mut page)).await?;
            bytes = 0;
        }
        if !goes_deeper {
            continue;
        }
        let below = visit.block(move |view| entries(view, &path, room)).await;
        match below {
            Ok(below) => {
                room -= below.len();
                levels.push(below.into_iter());
            }
            Err(full @ PlaneFault::TooMany { .. }) => return Err(full.into()),
            // Removed meanwhile, or unreadable: then there is nothing in it to be listed.
            Err(fault) => tracing::debug!(%fault, "left out of a list"),
        }
    }
    if !page.entries.is_empty() {
        channel.tell(&page).await?;
    }
    channel.send(FrameKind::End, &[]).await?;
    Ok(())
}

type Found = (PathBuf, wire::Entry);

/// The next one of the innermost level that has one.
fn next(levels: &mut Vec<IntoIter<Found>>) -> Option<Found> {
    loop {
        match levels.last_mut()?.next() {
            Some(found) => return Some(found),
            None => levels.pop(),
        };
    }
}

fn is_real_directory(entry: &wire::Entry) -> bool {
    entry.symlink_target.is_empty() && entry.type_.enum_value() == Ok(EntryType::DIRECTORY)
}

fn depth(depth: u32) -> Result<usize, PlaneFault> {
    match depth {
        // What other servers take it for.
        0 => Ok(1),
        1..=MAX_DEPTH => Ok(usize::try_from(depth).unwrap_or(1)),
        _ => Err(PlaneFault::Request {
            field: "depth",
            reason: format!("{depth} is more than {MAX_DEPTH}"),
        }),
    }
}

/// What is in one directory, by name; at most so many.
fn entries(view: &View, path: &Path, most: usize) -> Result<Vec<Found>, PlaneFault> {
    let mut found = Vec::new();
    for name in names(view, path, most)? {
        let path = path.join(name);
        match entry::look(view, &path) {
            Ok(entry) => found.push((path, entry)),
            // Removed since it was listed.
            Err(PlaneFault::NoPath { .. }) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(found)
}

/// Names in a directory, sorted.
pub fn names(view: &View, path: &Path, most: usize) -> Result<Vec<OsString>, PlaneFault> {
    let failed = |error| PlaneFault::file("list", path)(error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
    let fd = view.root.find(path, flags).map_err(failed)?;
    let mut names = Vec::new();
    for entry in Dir::new(fd).map_err(|errno| failed(errno.into()))? {
        let entry = entry.map_err(|errno| failed(errno.into()))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if names.len() == most {
            return Err(PlaneFault::TooMany {
                what: "entries in one list",
                most: MAX_ENTRIES,
            });
        }
        names.push(OsStr::from_bytes(name).to_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::tests::{Host, visit};
    use super::*;

    async fn list(root: &Path, path: &str, depth: u32) -> Result<Vec<String>, Stop> {
        let visit = visit(root);
        let (host, mut channel) = Host::pair();
        let request = wire::ListDirectory {
            place: Some(wire::Place {
                path: path.to_owned(),
                ..Default::default()
            })
            .into(),
            depth,
            ..Default::default()
        };
        let reader = tokio::spawn(host.pages());
        serve(&visit, &mut channel, request).await?;
        drop(channel);
        let entries = reader.await.unwrap();
        Ok(entries.into_iter().map(|entry| entry.path).collect())
    }

    #[tokio::test]
    async fn each_directory_comes_before_what_is_in_it_as_deep_as_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("a/x"), "").unwrap();
        fs::write(dir.path().join("z"), "").unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        let flat = list(dir.path(), "/", 1).await.unwrap();
        assert_eq!(flat, ["/a", "/link", "/z"]);
        let deep = list(dir.path(), "/", 3).await.unwrap();
        assert_eq!(deep, ["/a", "/a/b", "/a/b/c", "/a/x", "/link", "/z"]);
        let below = list(dir.path(), "/link", 2).await.unwrap();
        assert_eq!(below, ["/link/b", "/link/b/c", "/link/x"]);
    }

    #[tokio::test]
    async fn what_is_no_directory_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        for (path, depth) in [("/f", 1), ("/none", 1), ("/", MAX_DEPTH + 1)] {
            let stop = list(dir.path(), path, depth).await.unwrap_err();
            assert!(matches!(stop, Stop::Fault(_)), "{path}: {stop}");
        }
    }

    #[test]
    fn too_many_entries_are_a_fault_and_no_shorter_list() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..5 {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        let visit = visit(dir.path());
        assert_eq!(names(visit.view(), Path::new("/"), 5).unwrap().len(), 5);
        let fault = names(visit.view(), Path::new("/"), 4).unwrap_err();
        assert!(matches!(fault, PlaneFault::TooMany { .. }), "{fault}");
    }
}
