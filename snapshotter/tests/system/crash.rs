// SPDX-License-Identifier: Apache-2.0
//! `kill -9` of the real daemon at random moments of a concurrent load, many times on one store.
//!
//! Each worker owns its keys and remembers what it was answered. After the restart, whatever was
//! answered must be so, what was under way may be either way, and there is one image to a snapshot.
//! The seed is printed; `CUBE_SEED` repeats it (the interleaving is the kernel's all the same).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use cube_snapshotter::wire::Kind;
use tonic::Code;

use crate::world::{Client, World};

const ROUNDS: u32 = 14;
const WORKERS: u64 = 4;
/// Longest life of a daemon in a round; the shortest is none.
const LIFE_MAX_MS: u64 = 250;
/// A worker notices at its next operation that the daemon is gone.
const LOAD_END_LIMIT: Duration = Duration::from_secs(60);
/// Keys of one worker.
const KEYS: u64 = 12;

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What is known of a snapshot: its kind, its parent and the tag in its image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    kind: Kind,
    parent: String,
    tag: u8,
}

#[derive(Clone, Debug)]
enum Op {
    Create {
        key: String,
        parent: String,
        kind: Kind,
    },
    Commit {
        name: String,
        key: String,
    },
    Remove {
        key: String,
    },
}

/// A worker's snapshots, each as it was last answered; two states where an operation was cut off.
#[derive(Default)]
struct Worker {
    number: u64,
    snapshots: BTreeMap<String, Known>,
    /// Before and after of the operation that was not answered.
    doubt: Option<(BTreeMap<String, Known>, BTreeMap<String, Known>)>,
    answered: u64,
}

impl Worker {
    /// A random snapshot of those that `fits`.
    fn pick(&self, random: &mut Random, fits: impl Fn(&str, &Known) -> bool) -> Option<String> {
        let fitting = self
            .snapshots
            .iter()
            .filter(|(key, known)| fits(key, known));
        let fitting: Vec<_> = fitting.map(|(key, _)| key).collect();
        let count = u64::try_from(fitting.len()).unwrap();
        (count > 0).then(|| {
            let index = usize::try_from(random.below(count)).unwrap();
            fitting[index].clone()
        })
    }

    fn fresh(&self, random: &mut Random) -> Option<String> {
        let key = format!("w{}/{}", self.number, random.below(KEYS));
        (!self.snapshots.contains_key(&key)).then_some(key)
    }

    /// A random operation, if the one that the dice want is possible now.
    fn choose(&self, random: &mut Random) -> Option<Op> {
        let is = |kind| move |_: &str, known: &Known| known.kind == kind;
        Some(match random.below(8) {
            dice @ 0..=2 => {
                let key = self.fresh(random)?;
                let parent = self.pick(random, is(Kind::Committed)).unwrap_or_default();
                let kind = if dice == 0 { Kind::View } else { Kind::Active };
                Op::Create { key, parent, kind }
            }
            3 | 4 => {
                let key = self.pick(random, is(Kind::Active))?;
                let name = self.fresh(random)?;
                Op::Commit { name, key }
            }
            _ => {
                let has_child = |key: &str| self.snapshots.values().any(|s| s.parent == key);
                let key = self.pick(random, |key, _| !has_child(key))?;
                Op::Remove { key }
            }
        })
    }

    /// What the worker knows once `op` was answered.
    fn after(&self, op: &Op) -> BTreeMap<String, Known> {
        let mut after = self.snapshots.clone();
        match op.clone() {
            Op::Create { key, parent, kind } => {
                let tag = after.get(&parent).map_or(0, |parent| parent.tag);
                after.insert(key, Known { kind, parent, tag });
            }
            Op::Commit { name, key } => {
                let mut known = after.remove(&key).unwrap();
                known.kind = Kind::Committed;
                after.insert(name, known);
            }
            Op::Remove { key } => drop(after.remove(&key)),
        }
        after
    }

    /// One random operation. False when the daemon is gone.
    async fn step(&mut self, client: &Client, random: &mut Random) -> bool {
        // Something always is: with no fresh key there is a leaf to remove.
        let op = loop {
            if let Some(op) = self.choose(random) {
                break op;
            }
        };
        if let Op::Commit { key, .. } = &op {
            let Ok(mount) = client.mounts(key).await else {
                return false;
            };
            let tag = u8::try_from(random.below(256)).unwrap();
            let image = File::options().write(true).open(mount.source).unwrap();
            image.write_all_at(&[tag], 0).unwrap();
            // Written by us, not by the daemon: known whatever becomes of the commit.
            self.snapshots.get_mut(key).unwrap().tag = tag;
        }
        let after = self.after(&op);
        let result = match &op {
            Op::Create { key, parent, kind } if *kind == Kind::View => {
                client.view(key, parent).await.map(drop)
            }
            Op::Create { key, parent, .. } => client.prepare(key, parent).await.map(drop),
            Op::Commit { name, key } => client.commit(name, key).await,
            Op::Remove { key } => client.remove(key).await,
        };
        self.conclude(after, result.map_err(|status| status.code()))
    }

    fn conclude(&mut self, after: BTreeMap<String, Known>, result: Result<(), Code>) -> bool {
        match result {
            Ok(()) => {
                self.snapshots = after;
                self.answered += 1;
                true
            }
            Err(Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal) => {
                self.doubt = Some((self.snapshots.clone(), after));
                false
            }
            Err(code) => panic!("a legal operation was refused with {code:?}"),
        }
    }
}

/// What the daemon and the image files say about one worker's snapshots.
async fn observe(world: &World, client: &Client, worker: u64) -> BTreeMap<String, Known> {
    let mut seen = BTreeMap::new();
    for info in client
        .list(&[&format!("name~=/^w{worker}\\//")])
        .await
        .unwrap()
    {
        let view = format!("observe {}", info.name);
        let mount = match info.kind() {
            Kind::Committed => client.view(&view, &info.name).await.unwrap(),
            _ => client.mounts(&info.name).await.unwrap(),
        };
        assert!(mount.source.starts_with(world.root().to_str().unwrap()));
        let mut tag = [0];
        File::open(mount.source)
            .unwrap()
            .read_exact_at(&mut tag, 0)
            .unwrap();
        if info.kind() == Kind::Committed {
            client.remove(&view).await.unwrap();
        }
        let (kind, [tag]) = (info.kind(), tag);
        let parent = info.parent;
        seen.insert(info.name, Known { kind, parent, tag });
    }
    seen
}

fn seed() -> u64 {
    let given = std::env::var("CUBE_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| u64::from(std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_of_a_load() {
    let Some(world) = World::new() else { return };
    let seed = seed();
    println!("CUBE_SEED={seed}");
    let mut random = Random(seed);
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|number| Worker {
            number,
            ..Worker::default()
        })
        .collect();
    for round in 0..ROUNDS {
        let daemon = world.start();
        let mut load = Vec::new();
        for mut worker in workers.drain(..) {
            let client = world.client().await;
            let mut random = Random(random.next());
            load.push(tokio::spawn(async move {
                while worker.step(&client, &mut random).await {}
                worker
            }));
        }
        tokio::time::sleep(Duration::from_millis(random.below(LIFE_MAX_MS))).await;
        daemon.kill();
        for worker in load {
            let ended = tokio::time::timeout(LOAD_END_LIMIT, worker).await;
            workers.push(ended.expect("the load ends with the daemon").unwrap());
        }

        let daemon = world.start();
        let client = world.client().await;
        let mut snapshots = 0;
        for worker in &mut workers {
            let seen = observe(&world, &client, worker.number).await;
            let expected = match worker.doubt.take() {
                Some((before, after)) if seen == after => vec![before, after],
                Some((before, _)) => vec![before],
                None => vec![worker.snapshots.clone()],
            };
            assert!(
                expected.contains(&seen),
                "seed {seed} round {round}: {seen:#?} is none of {expected:#?}"
            );
            snapshots += seen.len();
            worker.snapshots = seen;
        }
        assert_eq!(client.list(&[]).await.unwrap().len(), snapshots);
        assert_eq!(world.images(), snapshots, "seed {seed} round {round}");
        // Half of the rounds end in a stop, half in another kill.
        match round % 2 {
            0 => assert!(daemon.stop().success()),
            _ => daemon.kill(),
        }
    }
    let answered: u64 = workers.iter().map(|worker| worker.answered).sum();
    println!("{answered} operations were answered in {ROUNDS} rounds");
    assert!(answered > 50, "only {answered} operations: no load");
}
