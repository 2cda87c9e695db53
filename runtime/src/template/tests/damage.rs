// SPDX-License-Identifier: Apache-2.0
//! What is not used: damaged, foreign, newer.

use super::*;

#[tokio::test]
async fn what_is_damaged_is_built_anew_once() {
    type Damage = fn(&Bed);
    let damages: [(&str, Damage); 10] = [
        ("manifest.json is no manifest", |bed| {
            fs::write(bed.path(MANIFEST), "{\"format\": 1, \"crc").unwrap();
        }),
        ("newer Cube", |bed| {
            fs::write(bed.path(MANIFEST), "{\"format\": 2}").unwrap();
        }),
        ("crc32", |bed| {
            let text = fs::read_to_string(bed.path(MANIFEST)).unwrap();
            fs::write(bed.path(MANIFEST), text.replace("\"base\"", "\"bass\"")).unwrap();
        }),
        ("manifest.json could not be read", |bed| {
            fs::remove_file(bed.path(MANIFEST)).unwrap();
        }),
        ("state.bin has 3 bytes", |bed| {
            fs::write(bed.path(STATE), "sta").unwrap();
        }),
        ("state.bin could not be read", |bed| {
            fs::remove_file(bed.path(STATE)).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", bed.path(STATE)).unwrap();
        }),
        ("memory.bin has 1 bytes", |bed| {
            fs::write(bed.path(MEMORY), "x").unwrap();
        }),
        ("memory.bin was written to", |bed| {
            let memory = File::options().write(true).open(bed.path(MEMORY)).unwrap();
            memory.write_all_at(b"x", 5000).unwrap();
        }),
        ("working_set.bin could not be read", |bed| {
            fs::remove_file(bed.path(WORKING_SET)).unwrap();
        }),
        (". could not be read", |bed| {
            fs::remove_dir_all(bed.path("")).unwrap();
            fs::write(bed.store.dir().join(wanted().name()), "no directory").unwrap();
        }),
    ];
    for (words, damage) in damages {
        let bed = Bed::new();
        bed.claim().await.unwrap();
        damage(&bed);
        let Found::Unfit(unfit) = bed.store.open(&wanted()) else {
            panic!("{words}: it is still taken for good");
        };
        let text = chain(&unfit);
        assert!(text.contains(words), "{text}");
        for _ in 0..2 {
            bed.claim().await.unwrap();
        }
        assert_eq!(bed.builds(), 2, "{words}");
        assert_eq!(bed.names(), [wanted().name()], "{words}");
    }
}

#[tokio::test]
async fn a_template_of_another_host_is_built_anew() {
    let bed = Bed::new();
    let mut elsewhere = wanted();
    elsewhere.expected.fingerprints.cpu = "another processor".into();
    bed.claim_this(&elsewhere, make_files).await.unwrap();
    let Found::Unfit(unfit) = bed.store.open(&wanted()) else {
        panic!("a foreign template is taken for good");
    };
    assert!(unfit.to_string().contains("another processor"), "{unfit}");
    bed.claim().await.unwrap();
    assert_eq!(bed.builds(), 2);
}

#[tokio::test]
async fn one_that_is_unfit_and_in_use_lives_on_for_its_clone() {
    let bed = Bed::new();
    let template = bed.claim().await.unwrap();
    fs::write(bed.path(STATE), "sta").unwrap();
    bed.claim().await.unwrap();
    let mut byte = [0];
    let memory = File::from(template.files.memory);
    memory.read_exact_at(&mut byte, 1 << 20).unwrap();
    assert_eq!(byte, [7]);
}

#[tokio::test]
async fn a_template_is_condemned_once_and_its_successor_stays() {
    let bed = Bed::new();
    let first = bed.claim().await.unwrap().lease;
    let unfit = || Unfit::Refused {
        reason: "a test".into(),
    };
    let building = bed.store.lock(wanted().name()).unwrap().unwrap();
    bed.store.condemn(&first, &unfit()).unwrap();
    assert_eq!(bed.names(), [wanted().name()], "somebody else is at it");
    drop(building);
    bed.store.condemn(&first, &unfit()).unwrap();
    assert!(bed.names().is_empty());
    bed.store.condemn(&first, &unfit()).unwrap();
    bed.claim().await.unwrap();
    bed.store.condemn(&first, &unfit()).unwrap();
    assert_eq!(bed.names(), [wanted().name()]);
    assert_eq!(bed.builds(), 2);
}
