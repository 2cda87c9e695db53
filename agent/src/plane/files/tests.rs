// SPDX-License-Identifier: Apache-2.0
//! On a directory of this system in the place of a container's root. Root is needed where owners change; the
//! tests own what they make as whoever runs them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::stage::Root;

/// A root with one user besides root, who is this process's.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        let line = format!("me:x:{}:{}::/home/me:/bin/sh\n", uid.as_raw(), gid.as_raw());
        fs::write(dir.path().join("etc/passwd"), line).unwrap();
        Self(dir)
    }

    fn view(&self) -> View {
        View::of(Root::open(self.0.path()).unwrap()).unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
}

fn place(path: &str) -> wire::Place {
    wire::Place {
        path: path.to_owned(),
        user: "me".to_owned(),
        ..Default::default()
    }
}

fn write(view: &View, path: &str, text: &str) {
    let located = view.locate(&place(path)).unwrap();
    open_new(view, &located)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

#[test]
fn a_directory_is_made_once_with_all_above_it() {
    let tree = Tree::new();
    let view = tree.view();
    let entry = make_directory(&view, &place("~/a/b")).unwrap();
    assert_eq!(entry.path, "/home/me/a/b");
    assert!(tree.at("home/me/a/b").is_dir());
    let again = make_directory(&view, &place("a/b")).unwrap_err();
    assert!(matches!(again, PlaneFault::Exists { .. }), "{again}");
    write(&view, "f", "");
    let over = make_directory(&view, &place("f")).unwrap_err();
    assert!(matches!(over, PlaneFault::NotADirectory { .. }), "{over}");
}

#[test]
fn a_file_is_written_in_the_place_of_what_was_in_it() {
    let tree = Tree::new();
    let view = tree.view();
    write(&view, "/x/y/f", "longer");
    fs::set_permissions(tree.at("x/y/f"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(tree.at("x/y/f")).unwrap();
    write(&view, "/x/y/f", "new");
    let after = fs::metadata(tree.at("x/y/f")).unwrap();
    assert_eq!(fs::read_to_string(tree.at("x/y/f")).unwrap(), "new");
    assert_eq!((after.ino(), after.mode()), (before.ino(), before.mode()));
}

#[test]
fn links_are_followed_within_the_root_and_never_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    let tree = Tree::new();
    let view = tree.view();
    symlink(outside.path(), tree.at("away")).unwrap();
    symlink("/etc/new", tree.at("link")).unwrap();
    write(&view, "/link", "inside");
    assert_eq!(fs::read_to_string(tree.at("etc/new")).unwrap(), "inside");
    // Nothing is made for a link that leads nowhere in the root, and nothing outside.
    let located = view.locate(&place("/away/f")).unwrap();
    assert!(open_new(&view, &located).is_err());
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    let escape = outside.path().join("secret");
    fs::write(&escape, "secret").unwrap();
    symlink(&escape, tree.at("steal")).unwrap();
    let stolen = open_file(&view, Path::new("/steal")).unwrap_err();
    assert!(matches!(stolen, PlaneFault::NoPath { .. }), "{stolen}");
}

#[test]
fn only_regular_files_are_opened() {
    let tree = Tree::new();
    let view = tree.view();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.at("fifo"),
        FileType::Fifo,
        Mode::RWXU,
        0,
    )
    .unwrap();
    let fifo = open_file(&view, Path::new("/fifo")).unwrap_err();
    assert!(matches!(fifo, PlaneFault::Special { .. }), "{fifo}");
    let directory = open_file(&view, Path::new("/etc")).unwrap_err();
    assert!(
        matches!(directory, PlaneFault::IsADirectory { .. }),
        "{directory}"
    );
    let located = view.locate(&place("/etc")).unwrap();
    let directory = open_new(&view, &located).unwrap_err();
    assert!(
        matches!(directory, PlaneFault::IsADirectory { .. }),
        "{directory}"
    );
    let below_a_file = open_file(&view, Path::new("/etc/passwd/x")).unwrap_err();
    assert!(
        matches!(below_a_file, PlaneFault::NotADirectory { .. }),
        "{below_a_file}"
    );
}

#[test]
fn a_rename_makes_what_is_missing_above_and_replaces_what_is_there() {
    let tree = Tree::new();
    let view = tree.view();
    write(&view, "/a", "a");
    write(&view, "/b", "b");
    let entry = rename(&view, &place("/a"), &place("/new/a")).unwrap();
    assert_eq!(entry.path, "/new/a");
    rename(&view, &place("/b"), &place("/new/a")).unwrap();
    assert_eq!(fs::read_to_string(tree.at("new/a")).unwrap(), "b");
    let gone = rename(&view, &place("/a"), &place("/made/for/nothing")).unwrap_err();
    assert!(matches!(gone, PlaneFault::NoPath { .. }), "{gone}");
    assert!(!tree.at("made").exists());
}

#[test]
fn what_is_removed_is_the_link_and_not_what_it_leads_to() {
    let tree = Tree::new();
    let view = tree.view();
    write(&view, "/d/e/f", "x");
    symlink("/d", tree.at("link")).unwrap();
    remove(&view, &place("/link")).unwrap();
    assert!(tree.at("d/e/f").exists());
    remove(&view, &place("/d")).unwrap();
    assert!(!tree.at("d").exists());
    remove(&view, &place("/d")).unwrap();
    remove(&view, &place("/no/such/parent")).unwrap();
    assert!(remove(&view, &place("/")).is_err());
}

#[test]
fn files_are_put_together_in_order_and_the_parts_are_gone() {
    let tree = Tree::new();
    let view = tree.view();
    for (path, text) in [("/p/1", "one "), ("/p/2", "two "), ("/p/3", "three")] {
        write(&view, path, text);
    }
    let sources = ["/p/1", "/p/2", "/p/3"].map(str::to_owned);
    let entry = compose(&view, &sources, &place("/out/whole")).unwrap();
    let mut text = String::new();
    open_file(&view, Path::new(&entry.path))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "one two three");
    assert_eq!(fs::read_dir(tree.at("p")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(tree.at("out")).unwrap().count(), 1);
}

#[test]
fn parts_stay_when_one_is_missing() {
    let tree = Tree::new();
    let view = tree.view();
    write(&view, "/1", "one");
    let sources = ["/1", "/2"].map(str::to_owned);
    let missing = compose(&view, &sources, &place("/whole")).unwrap_err();
    assert!(matches!(missing, PlaneFault::NoPath { .. }), "{missing}");
    assert!(tree.at("1").exists());
    // Besides the part there is the directory of the accounts.
    assert_eq!(fs::read_dir(tree.0.path()).unwrap().count(), 2);
}
