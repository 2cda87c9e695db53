// SPDX-License-Identifier: Apache-2.0
//! The rules, and what survives a crash. A crash is a catalog whose file is read as it is on disk
//! while the first one is still open: a copy of it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::record::{DraftState, Kind, Labels, UnixNanos};

fn open(dir: &Path) -> Catalog {
    if !Catalog::exists(dir) {
        Catalog::create(dir).unwrap();
    }
    Catalog::open(dir, Box::new(|| Ok(()))).unwrap()
}

fn after_crash(dir: &Path) -> (tempfile::TempDir, Catalog) {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(file_in(dir), file_in(copy.path())).unwrap();
    let catalog = open(copy.path());
    (copy, catalog)
}

fn draft(key: &str, kind: Kind, parent: &str) -> DraftState {
    DraftState {
        key: key.into(),
        kind,
        parent: parent.into(),
        labels: Labels::new(),
        created: UnixNanos::now(),
    }
}

fn create(catalog: &Catalog, key: &str, parent: &str, how: Durability) -> Result<ImageId> {
    let mut change = catalog.change()?;
    let state = change.create(&draft(key, Kind::Active, parent))?;
    change.finish(how)?;
    Ok(state.id)
}

fn commit(catalog: &Catalog, key: &str, name: &str) -> Result<()> {
    let mut change = catalog.change()?;
    change.commit(key, name, Labels::new())?;
    change.finish(Durability::Durable)
}

fn remove(catalog: &Catalog, key: &str) -> Result<()> {
    let mut change = catalog.change()?;
    change.remove(key)?;
    change.finish(Durability::Durable)
}

fn keys(catalog: &Catalog) -> Vec<String> {
    let mut keys = Vec::new();
    catalog
        .walk(|key, _| {
            keys.push(key.to_owned());
            true
        })
        .unwrap();
    keys
}

#[test]
fn keys_parents_and_kinds_follow_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let how = Durability::Quick;
    create(&catalog, "a", "", how).unwrap();
    let refused = |result: Result<ImageId>| result.unwrap_err().to_string();
    assert!(refused(create(&catalog, "a", "", how)).contains("already exists"));
    assert!(refused(create(&catalog, "b", "none", how)).contains("does not exist"));
    assert!(refused(create(&catalog, "b", "a", how)).contains("not committed"));
    commit(&catalog, "a", "c").unwrap();
    assert!(catalog.find("a").unwrap().is_none());
    create(&catalog, "a", "c", how).unwrap();
    assert!(
        commit(&catalog, "a", "c")
            .unwrap_err()
            .to_string()
            .contains("already exists")
    );
    assert!(
        commit(&catalog, "c", "d")
            .unwrap_err()
            .to_string()
            .contains("not active")
    );
    assert!(
        commit(&catalog, "x", "d")
            .unwrap_err()
            .to_string()
            .contains("does not exist")
    );
    assert!(
        remove(&catalog, "c")
            .unwrap_err()
            .to_string()
            .contains("\"a\" was made from it")
    );
    commit(&catalog, "a", "d").unwrap();
    assert!(
        remove(&catalog, "c")
            .unwrap_err()
            .to_string()
            .contains("\"d\" was made from it")
    );
    remove(&catalog, "d").unwrap();
    remove(&catalog, "c").unwrap();
    assert!(matches!(
        remove(&catalog, "c"),
        Err(CatalogError::NotFound { .. })
    ));
    assert!(keys(&catalog).is_empty());
}

#[test]
fn numbers_are_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let first = create(&catalog, "a", "", Durability::Durable).unwrap();
    remove(&catalog, "a").unwrap();
    drop(catalog);
    let catalog = open(dir.path());
    assert!(create(&catalog, "a", "", Durability::Durable).unwrap() > first);
}

#[test]
fn dropped_change_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let next = catalog.next_id().unwrap();
    let mut change = catalog.change().unwrap();
    change.create(&draft("a", Kind::Active, "")).unwrap();
    drop(change);
    assert!(keys(&catalog).is_empty());
    assert_eq!(catalog.next_id().unwrap(), next);
}

#[test]
fn crash_forgets_quick_changes_and_their_numbers_together() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    create(&catalog, "durable", "", Durability::Durable).unwrap();
    let quick = create(&catalog, "quick", "", Durability::Quick).unwrap();
    assert_eq!(keys(&catalog), ["durable", "quick"]);

    let (_copy, crashed) = after_crash(dir.path());
    assert_eq!(keys(&crashed), ["durable"]);
    assert_eq!(crashed.next_id().unwrap(), quick);
    let mut change = crashed.change().unwrap();
    change
        .adopt(&draft("quick", Kind::Active, ""), quick)
        .unwrap();
    change.finish(Durability::Durable).unwrap();
    assert_eq!(crashed.next_id().unwrap(), quick + 1);

    catalog.flush().unwrap();
    let (_copy, crashed) = after_crash(dir.path());
    assert_eq!(keys(&crashed), ["durable", "quick"]);
}

#[test]
fn barrier_runs_before_quick_changes_become_durable_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    Catalog::create(dir.path()).unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let barrier = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let catalog = Catalog::open(dir.path(), Box::new(barrier)).unwrap();
    create(&catalog, "a", "", Durability::Durable).unwrap();
    catalog.flush().unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    create(&catalog, "b", "", Durability::Quick).unwrap();
    create(&catalog, "c", "", Durability::Quick).unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    remove(&catalog, "a").unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    catalog.flush().unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[test]
fn failed_barrier_keeps_the_disk_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    Catalog::create(dir.path()).unwrap();
    let barrier = || Err(io::Error::other("no disk"));
    let catalog = Catalog::open(dir.path(), Box::new(barrier)).unwrap();
    create(&catalog, "a", "", Durability::Quick).unwrap();
    let error = remove(&catalog, "a").unwrap_err();
    assert!(matches!(error, CatalogError::Barrier { .. }));
    assert_eq!(keys(&catalog), ["a"]);
    let (_copy, crashed) = after_crash(dir.path());
    assert!(keys(&crashed).is_empty());
}

#[test]
fn labels_can_be_edited() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    create(&catalog, "a", "", Durability::Quick).unwrap();
    let before = catalog.get("a").unwrap();
    let mut change = catalog.change().unwrap();
    change
        .edit_labels("a", |labels| drop(labels.insert("k".into(), "v".into())))
        .unwrap();
    change.finish(Durability::Durable).unwrap();
    drop(catalog);
    let after = open(dir.path()).get("a").unwrap();
    assert_eq!(after.labels["k"], "v");
    assert_eq!(after.created, before.created);
    assert!(after.updated > before.updated);
}

#[test]
fn other_formats_and_other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::create(file_in(dir.path())).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(NUMBERS)
        .unwrap()
        .insert(FORMAT_KEY, 99)
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let refused = |dir: &Path| Catalog::open(dir, Box::new(|| Ok(()))).err().unwrap();
    let error = refused(dir.path()).to_string();
    assert!(error.contains("format Some(99)"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    fs::write(file_in(dir.path()), "not a catalog at all").unwrap();
    assert!(matches!(refused(dir.path()), CatalogError::Store { .. }));
}

#[test]
fn reserve_is_kept_past_the_end() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let _catalog = open(dir.path());
    let metadata = fs::metadata(file_in(dir.path())).unwrap();
    assert!(
        metadata.blocks() * 512 >= RESERVE_BYTES,
        "{}",
        metadata.blocks()
    );
}
