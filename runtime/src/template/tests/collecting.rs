// SPDX-License-Identifier: Apache-2.0
//! What is removed, and what is not.

use super::*;
use std::time::SystemTime;

/// Makes a template look unused for this long.
fn age(bed: &Bed, wanted: &Wanted, by: Duration) {
    let dir = File::open(bed.store.dir().join(wanted.name())).unwrap();
    dir.set_modified(SystemTime::now() - by).unwrap();
}

#[tokio::test]
async fn what_nobody_used_for_long_is_collected_and_what_is_in_use_is_not() {
    let bed = Bed::new();
    let (old, used) = (wanted_by("old"), wanted_by("used"));
    drop(bed.claim_this(&old, make_files).await.unwrap());
    let clone = bed.claim_this(&used, make_files).await.unwrap();
    bed.claim().await.unwrap();
    for wanted in [&old, &used] {
        age(&bed, wanted, LIMITS.age + Duration::from_secs(60));
    }
    let removed = |collected: Collected| -> Vec<String> {
        collected.removed.into_iter().map(|one| one.name).collect()
    };
    assert_eq!(removed(bed.store.collect(true).unwrap()), [old.name()]);
    assert_eq!(bed.names().len(), 3);
    assert_eq!(removed(bed.store.collect(false).unwrap()), [old.name()]);
    assert_eq!(bed.names().len(), 2);
    drop(clone);
    assert_eq!(removed(bed.store.collect(false).unwrap()), [used.name()]);
    assert_eq!(bed.names(), [wanted().name()]);
}

#[tokio::test]
async fn a_build_makes_room_for_itself() {
    let mut bed = Bed::new();
    bed.store = Store::new(bed.store.dir(), Limits { bytes: 1, ..LIMITS });
    let old = wanted_by("old");
    drop(bed.claim_this(&old, make_files).await.unwrap());
    age(&bed, &old, Duration::from_secs(3600));
    bed.claim().await.unwrap();
    assert_eq!(bed.names(), [wanted().name()]);
}

#[tokio::test]
async fn a_use_is_noted() {
    let bed = Bed::new();
    drop(bed.claim().await.unwrap());
    age(&bed, &wanted(), Duration::from_secs(7200));
    drop(bed.claim().await.unwrap());
    let listed = bed.store.list().unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(listed[0].used_s + 60 > now.as_secs(), "{listed:?}");
}

#[tokio::test]
async fn what_dead_processes_left_is_cleared_and_what_is_being_made_is_not() {
    let bed = Bed::new();
    drop(bed.claim().await.unwrap());
    for name in [".gone.x.1.0", ".new.dead", ".new.alive"] {
        fs::create_dir(bed.store.dir().join(name)).unwrap();
    }
    let _alive = bed.store.lock("alive").unwrap().unwrap();
    let collected = bed.store.collect(false).unwrap();
    assert_eq!(collected.left_overs, [".gone.x.1.0", ".new.dead"]);
    assert_eq!(bed.names(), [".new.alive", wanted().name()]);
}
