// SPDX-License-Identifier: Apache-2.0
//! Against this system's kernel, on a directory in the place of a container's root.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use rustix::fs::inotify::{CreateFlags, init};
use tempfile::TempDir;

use super::*;
use crate::stage::Root;

struct Bed {
    dir: TempDir,
    view: View,
    inotify: OwnedFd,
    watcher: Watcher,
}

fn watch(recursive: bool, prepare: impl FnOnce(&Path)) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("w")).unwrap();
    prepare(&dir.path().join("w"));
    let view = View::of(Root::open(dir.path()).unwrap()).unwrap();
    let inotify = init(CreateFlags::NONBLOCK).unwrap();
    let watcher = Watcher::begin(&view, &inotify, "/w".into(), recursive, true).unwrap();
    Bed {
        dir,
        view,
        inotify,
        watcher,
    }
}

impl Bed {
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("w").join(path)
    }

    fn events(&mut self) -> Vec<wire::WatchEvent> {
        self.watcher.events(&self.view, &self.inotify).unwrap()
    }

    /// As `KIND name`, neighbours that are the same once.
    fn told(&mut self) -> Vec<String> {
        let events = self.events();
        let mut told: Vec<_> = events
            .iter()
            .map(|event| format!("{:?} {}", event.kind.enum_value().unwrap(), event.name))
            .collect();
        told.dedup();
        told
    }
}

#[test]
fn each_kind_of_change_is_told_by_name() {
    let mut bed = watch(false, |_| {});
    fs::write(bed.at("f"), "x").unwrap();
    assert_eq!(bed.told(), ["CREATE f", "WRITE f"]);
    fs::set_permissions(bed.at("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(bed.told(), ["CHMOD f"]);
    fs::rename(bed.at("f"), bed.at("g")).unwrap();
    assert_eq!(bed.told(), ["RENAME f", "CREATE g"]);
    fs::remove_file(bed.at("g")).unwrap();
    assert_eq!(bed.told(), ["REMOVE g"]);
    assert!(bed.told().is_empty());
}

#[test]
fn events_come_with_what_is_there_and_nothing_for_what_is_gone() {
    let mut bed = watch(false, |_| {});
    fs::write(bed.at("f"), "four").unwrap();
    let events = bed.events();
    assert_eq!(events[0].entry.path, "/w/f");
    assert_eq!(events[0].entry.size, 4);
    fs::remove_file(bed.at("f")).unwrap();
    assert!(bed.events()[0].entry.is_none());
}

#[test]
fn what_is_below_is_told_only_if_it_was_asked_for() {
    let mut flat = watch(false, |dir| fs::create_dir(dir.join("d")).unwrap());
    fs::write(flat.at("d/f"), "").unwrap();
    assert!(flat.told().is_empty());
    let mut deep = watch(true, |dir| fs::create_dir_all(dir.join("d/e")).unwrap());
    fs::write(deep.at("d/e/f"), "").unwrap();
    assert_eq!(deep.told(), ["CREATE d/e/f"]);
}

#[test]
fn a_new_directory_is_followed_with_what_is_in_it_already() {
    let mut bed = watch(true, |_| {});
    fs::create_dir_all(bed.at("a/b")).unwrap();
    fs::write(bed.at("a/b/early"), "").unwrap();
    assert_eq!(bed.told(), ["CREATE a", "CREATE a/b", "CREATE a/b/early"]);
    fs::write(bed.at("a/b/late"), "").unwrap();
    assert_eq!(bed.told(), ["CREATE a/b/late"]);
}

#[test]
fn a_directory_that_went_elsewhere_is_not_told_of_under_its_old_name() {
    let mut bed = watch(true, |dir| fs::create_dir(dir.join("d")).unwrap());
    let elsewhere = bed.dir.path().join("elsewhere");
    fs::rename(bed.at("d"), &elsewhere).unwrap();
    assert_eq!(bed.told(), ["RENAME d"]);
    fs::write(elsewhere.join("f"), "").unwrap();
    assert!(bed.told().is_empty());
}

#[test]
fn a_watch_is_over_when_its_directory_is_gone() {
    let mut bed = watch(true, |_| {});
    fs::remove_dir(bed.at("")).unwrap();
    let told = bed.told();
    assert_eq!(told.last().map(String::as_str), Some("REMOVE ."));
    assert!(bed.watcher.is_over());
}

#[test]
fn links_are_told_and_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let mut bed = watch(true, |dir| {
        std::os::unix::fs::symlink(outside.path(), dir.join("away")).unwrap();
    });
    fs::write(outside.path().join("f"), "").unwrap();
    assert!(bed.told().is_empty());
    let no_directory = Watcher::begin(&bed.view, &bed.inotify, "/w/away".into(), true, false);
    assert!(no_directory.is_err());
}

#[test]
fn more_than_the_kernel_keeps_is_told_as_an_overflow() {
    let kept = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let kept: usize = kept.trim().parse().unwrap();
    let mut bed = watch(false, |_| {});
    // Two events each, of two files in turn: the kernel joins neighbours that are the same.
    for number in 0..kept / 2 + 1 {
        fs::write(bed.at(["a", "b"][number % 2]), "x").unwrap();
        fs::remove_file(bed.at(["a", "b"][number % 2])).unwrap();
    }
    let (mut count, mut has_overflow) = (0, false);
    loop {
        let events = bed.events();
        if events.is_empty() {
            break;
        }
        count += events.len();
        let is_overflow =
            |event: &wire::WatchEvent| event.kind.enum_value() == Ok(WatchKind::OVERFLOW);
        has_overflow |= events.iter().any(is_overflow);
    }
    assert!(has_overflow && count <= kept + 1, "{count} of {kept}");
}
