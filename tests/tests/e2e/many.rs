// SPDX-License-Identifier: Apache-2.0
//! Many containers: one after another, at once, and of two containerds.

use std::time::Duration;

use cube_tests::bed::{Bed, Settings};
use cube_tests::ctr::BUSYBOX;
use cube_tests::series::Series;
use cube_tests::suite::{Case, case};

use crate::ALSO_MAIN;

pub const CASES: &[Case] = &[
    case("20_containers_one_after_another", in_a_row).on(ALSO_MAIN),
    case("10_containers_at_once", at_once).on(ALSO_MAIN),
    case("containers_of_one_name_on_two_containerds", twins)
        .on(ALSO_MAIN)
        .ours(),
];

/// Ten starts on one emulated processor, which a busy host shares out; one may have to make the template.
const BURST_LIMIT: Duration = Duration::from_secs(600);
const BURST_BOOT_TIMEOUT: Duration = Duration::from_secs(500);

fn in_a_row(bed: &mut Bed) {
    for round in 1..=20 {
        let said = bed
            .sh("row", &[], &format!("echo {round}"))
            .succeeded()
            .out();
        assert_eq!(said, round.to_string());
    }
}

fn at_once(bed: &mut Bed) {
    let settings = Settings {
        boot_timeout: BURST_BOOT_TIMEOUT,
        ..Settings::default()
    };
    bed.with_settings(&settings, |bed| {
        let all: Vec<_> = (1..=10)
            .map(|number| {
                let id = bed.id("burst");
                let run = bed.run(&["--rm"], BUSYBOX, &id, &["echo", &number.to_string()]);
                (number, run.limit(BURST_LIMIT).start())
            })
            .collect();
        for (number, run) in all {
            assert_eq!(run.wait().succeeded().out(), number.to_string());
        }
    });
}

fn twins(bed: &mut Bed) {
    let mut other = Bed::start(Series::V1_6, bed.runtime, "twin");
    let id = bed.sleeper("twin", &[]);
    other
        .run(&["-d"], BUSYBOX, &id, &["sleep", "100000"])
        .run()
        .succeeded();
    bed.exec(&id, "echo first > /tmp/name").run().succeeded();
    other.exec(&id, "test ! -e /tmp/name").run().succeeded();
    other.kill_and_delete(&id);
    assert_eq!(
        bed.exec(&id, "cat /tmp/name").run().succeeded().out(),
        "first"
    );
    bed.kill_and_delete(&id);
}
