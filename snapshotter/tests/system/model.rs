// SPDX-License-Identifier: Apache-2.0
//! Random sequences of operations and restarts against a model of twenty lines.
//!
//! Each image carries a tag in its first bytes, which ext4 leaves to boot loaders: the tag tells whose
//! content a snapshot really has.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cube_snapshotter::filter::Filters;
use cube_snapshotter::record::{Kind, Labels};
use cube_snapshotter::size::ByteSize;
use cube_snapshotter::storage::Storage;
use cube_snapshotter::{SnapshotError, Snapshotter};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tonic::{Code, Status};

use crate::host::{self, Mounted};
use crate::world::World;

#[derive(Clone, Debug)]
enum Op {
    Prepare(Key, Option<Key>),
    View(Key, Option<Key>),
    Write(Key, u8),
    Commit(Key, Key),
    Remove(Key),
    Label(Key, u8),
    Cleanup,
    Restart,
}

/// Few keys, so that they collide.
type Key = u8;

fn key() -> impl Strategy<Value = Key> {
    0..6_u8
}

fn op() -> impl Strategy<Value = Op> {
    let parent = || prop::option::weighted(0.7, key());
    prop_oneof![
        4 => (key(), parent()).prop_map(|(k, p)| Op::Prepare(k, p)),
        2 => (key(), parent()).prop_map(|(k, p)| Op::View(k, p)),
        3 => (key(), any::<u8>()).prop_map(|(k, tag)| Op::Write(k, tag)),
        4 => (key(), key()).prop_map(|(name, k)| Op::Commit(name, k)),
        3 => key().prop_map(Op::Remove),
        1 => (key(), any::<u8>()).prop_map(|(k, v)| Op::Label(k, v)),
        1 => Just(Op::Cleanup),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Modelled {
    kind: Kind,
    parent: String,
    labels: Labels,
    tag: u8,
}

type Model = BTreeMap<String, Modelled>;

fn name(key: Key) -> String {
    format!("key-{key}")
}

fn create(model: &mut Model, kind: Kind, key: Key, parent: Option<Key>) -> Result<(), Code> {
    let parent = parent.map(name).unwrap_or_default();
    let mut tag = 0;
    if !parent.is_empty() {
        let found = model.get(&parent).ok_or(Code::NotFound)?;
        if found.kind != Kind::Committed {
            return Err(Code::InvalidArgument);
        }
        tag = found.tag;
    }
    if model.contains_key(&name(key)) {
        return Err(Code::AlreadyExists);
    }
    let labels = Labels::new();
    let new = Modelled {
        kind,
        parent,
        labels,
        tag,
    };
    model.insert(name(key), new);
    Ok(())
}

fn commit(model: &mut Model, to: Key, key: Key) -> Result<(), Code> {
    if model.contains_key(&name(to)) {
        return Err(Code::AlreadyExists);
    }
    let found = model.get(&name(key)).ok_or(Code::NotFound)?;
    if found.kind != Kind::Active {
        return Err(Code::FailedPrecondition);
    }
    let mut snapshot = model.remove(&name(key)).unwrap();
    snapshot.kind = Kind::Committed;
    snapshot.labels = Labels::new();
    model.insert(name(to), snapshot);
    Ok(())
}

fn remove(model: &mut Model, key: Key) -> Result<(), Code> {
    if !model.contains_key(&name(key)) {
        return Err(Code::NotFound);
    }
    if model.values().any(|other| other.parent == name(key)) {
        return Err(Code::FailedPrecondition);
    }
    model.remove(&name(key));
    Ok(())
}

fn label(model: &mut Model, key: Key, labels: &Labels) -> Result<(), Code> {
    let found = model.get_mut(&name(key)).ok_or(Code::NotFound)?;
    found.labels.clone_from(labels);
    Ok(())
}

fn open(root: &Path) -> Snapshotter {
    std::fs::create_dir_all(root).unwrap();
    let storage = Storage::open(root, None).unwrap();
    Snapshotter::open(storage, ByteSize::mib(64)).unwrap()
}

fn code(result: Result<(), SnapshotError>) -> Result<(), Code> {
    result.map_err(|error| Status::from(error).code())
}

fn write_tag(snapshotter: &Snapshotter, key: Key, tag: u8) -> bool {
    let Ok(mount) = snapshotter.mounts(&name(key)) else {
        return false;
    };
    if mount.options[0] == "rw" {
        let image = File::options().write(true).open(&mount.source).unwrap();
        image.write_all_at(&[tag], 0).unwrap();
    }
    mount.options[0] == "rw"
}

fn apply(
    snapshotter: &Snapshotter,
    model: &mut Model,
    op: &Op,
) -> (Result<(), Code>, Result<(), Code>) {
    let none = Labels::new;
    let parent_of = |parent: &Option<Key>| parent.map(name).unwrap_or_default();
    match op {
        Op::Prepare(k, p) => (
            code(
                snapshotter
                    .prepare(&name(*k), &parent_of(p), none())
                    .map(drop),
            ),
            create(model, Kind::Active, *k, *p),
        ),
        Op::View(k, p) => (
            code(snapshotter.view(&name(*k), &parent_of(p), none()).map(drop)),
            create(model, Kind::View, *k, *p),
        ),
        Op::Write(k, tag) => {
            if write_tag(snapshotter, *k, *tag) {
                model.get_mut(&name(*k)).unwrap().tag = *tag;
            }
            (Ok(()), Ok(()))
        }
        Op::Commit(to, k) => (
            code(snapshotter.commit(&name(*to), &name(*k), none())),
            commit(model, *to, *k),
        ),
        Op::Remove(k) => (code(snapshotter.remove(&name(*k))), remove(model, *k)),
        Op::Label(k, value) => {
            let labels = Labels::from([("l".to_owned(), value.to_string())]);
            (
                code(snapshotter.update(&name(*k), &labels, &[]).map(drop)),
                label(model, *k, &labels),
            )
        }
        Op::Cleanup => (code(snapshotter.cleanup()), Ok(())),
        Op::Restart => (Ok(()), Ok(())),
    }
}

/// The model of what the store holds now, tags read from the image files.
fn observe(snapshotter: &Snapshotter, root: &Path) -> Model {
    let mut model = Model::new();
    let filters = Filters::parse::<&str>(&[]).unwrap();
    let visit = |info: cube_snapshotter::snapshotter::Info| {
        let image = root.join(format!("store/images/{}.img", info.state.id));
        let mut tag = [0];
        File::open(image)
            .unwrap()
            .read_exact_at(&mut tag, 0)
            .unwrap();
        let [tag] = tag;
        let (kind, parent, labels) = (info.state.kind, info.state.parent, info.state.labels);
        model.insert(
            info.key,
            Modelled {
                kind,
                parent,
                labels,
                tag,
            },
        );
        true
    };
    snapshotter.walk(&filters, visit).unwrap();
    model
}

#[test]
fn any_sequence_of_operations_behaves_as_the_model() {
    let Some(world) = World::new() else { return };
    let file = world.path().join("disk");
    File::create(&file).unwrap().set_len(600 << 20).unwrap();
    host::run("mkfs.xfs", ["-q".as_ref(), file.as_os_str()]).unwrap();
    let disk = world.path().join("disk-mount");
    let source = file.to_str().unwrap();
    let _disk = Mounted::new("xfs", source, &["loop".to_owned()], &disk).unwrap();

    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let case = std::cell::Cell::new(0);
    let run = |ops: Vec<Op>| {
        case.set(case.get() + 1);
        let root = disk.join(case.get().to_string());
        let mut snapshotter = open(&root);
        let mut model = Model::new();
        for op in &ops {
            if matches!(op, Op::Restart) {
                drop(snapshotter);
                snapshotter = open(&root);
            }
            let (found, wanted) = apply(&snapshotter, &mut model, op);
            prop_assert_eq!(found, wanted, "{:?}", op);
            prop_assert_eq!(&observe(&snapshotter, &root), &model, "after {:?}", op);
        }
        let images = std::fs::read_dir(root.join("store/images"))
            .unwrap()
            .count();
        prop_assert_eq!(images, model.len());
        drop(snapshotter);
        std::fs::remove_dir_all(&root).unwrap();
        Ok(())
    };
    let ops = prop::collection::vec(op(), 1..40);
    TestRunner::new(config).run(&ops, run).unwrap();
}
