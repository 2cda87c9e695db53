// SPDX-License-Identifier: Apache-2.0
//! What an operator sees and may remove.

use super::*;

#[tokio::test]
async fn one_in_use_is_removed_only_by_force_and_its_clone_lives_on() {
    let bed = Bed::new();
    let clone = bed.claim().await.unwrap();
    let name = wanted().name().to_owned();
    let error = bed.store.remove(&name, false).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    bed.store.remove(&name, true).unwrap();
    assert!(bed.names().is_empty());
    let mut byte = [0];
    let memory = File::from(clone.files.memory);
    memory.read_exact_at(&mut byte, 1 << 20).unwrap();
    assert_eq!(byte, [7]);
    bed.claim().await.unwrap();
    assert_eq!(bed.builds(), 2);
    drop(clone.lease);
    bed.store.remove(&name, false).unwrap();
    for unknown in [name.as_str(), "../t", ".lock.x", ""] {
        let error = bed.store.remove(unknown, true).unwrap_err();
        assert!(
            matches!(error, StoreError::Unknown { .. }),
            "{unknown}: {error}"
        );
    }
}

#[tokio::test]
async fn a_listing_says_what_there_is_and_what_is_wrong_with_it() {
    let bed = Bed::new();
    assert!(bed.store.list().unwrap().is_empty());
    let clone = bed.claim().await.unwrap();
    let listed = bed.store.list().unwrap();
    let [one] = listed.as_slice() else {
        panic!("{listed:?}");
    };
    assert_eq!((one.state, one.in_use), (TemplateState::Good, true));
    assert_eq!((one.vcpus, one.memory_mib), (Some(2), Some(2048)));
    // Two blocks of memory, not four MiB of holes.
    assert!((8192..100_000).contains(&one.disk_bytes), "{one:?}");
    drop(clone);
    fs::write(bed.path(STATE), "sta").unwrap();
    let listed = bed.store.list().unwrap();
    assert_eq!(
        (listed[0].state, listed[0].in_use),
        (TemplateState::Unfit, false)
    );
    assert!(listed[0].reason.as_ref().unwrap().contains(STATE));
}

#[tokio::test]
async fn damage_that_no_start_sees_is_found_by_reading() {
    let bed = Bed::new();
    let lease = bed.claim().await.unwrap().lease;
    let name = wanted().name().to_owned();
    let verified = |bed: &Bed| bed.store.inspect(&name, true).unwrap().verified.unwrap();
    assert!(verified(&bed).iter().all(|file| file.good));
    bed.store.verify(&lease).unwrap();

    let memory = File::options().write(true).open(bed.path(MEMORY)).unwrap();
    let mtime = memory.metadata().unwrap().modified().unwrap();
    memory.write_all_at(b"x", 5000).unwrap();
    memory.set_modified(mtime).unwrap();
    assert!(matches!(bed.store.open(&wanted()), Found::Template(_)));
    let verified = verified(&bed);
    let bad: Vec<_> = verified.iter().filter(|file| !file.good).collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0].file, MEMORY);
    let unfit = bed.store.verify(&lease).unwrap_err();
    assert!(
        matches!(unfit, Unfit::Damaged { name: MEMORY, .. }),
        "{unfit}"
    );
}
