// SPDX-License-Identifier: Apache-2.0
//! Files of the host in containers.

use std::fs;
use std::time::Duration;

use cube_tests::bed::Bed;
use cube_tests::bounded::eventually;
use cube_tests::suite::{Case, case};

use super::MAIN;

pub const CASES: &[Case] = &[case(
    "small_file_of_the_host_is_copied_and_followed",
    copied_and_followed,
)
.on(MAIN)
.ours()];

/// Longest time for a change of a file to reach its container, on an emulating host.
const ARRIVAL: Duration = Duration::from_secs(20);

fn copied_and_followed(bed: &mut Bed) {
    let directory = bed.scratch("files");
    fs::create_dir(&directory).expect("the bed has room");
    let path = directory.join("greeting");
    fs::write(&path, "first\n").expect("the scratch directory can be written");
    let mount = format!(
        "type=bind,src={},dst=/etc/greeting,options=rbind:ro",
        path.display()
    );
    let id = bed.sleeper("files", &["--mount", &mount]);
    let mut said = |script: &str| bed.exec(&id, script).run().out();
    assert_eq!(said("cat /etc/greeting"), "first");
    assert_eq!(
        said("echo mine >/etc/greeting || echo refused"),
        "refused",
        "it is mounted read-only"
    );

    fs::write(&path, "second\n").expect("the file can be written");
    eventually("what was written arrives", ARRIVAL, || {
        said("cat /etc/greeting") == "second"
    });
    let other = path.with_extension("new");
    fs::write(&other, "third\n").expect("the scratch directory can be written");
    fs::rename(&other, &path).expect("it can be put in place");
    eventually("what was put in place arrives", ARRIVAL, || {
        said("cat /etc/greeting") == "third"
    });
    fs::remove_file(&path).expect("it can be removed");
    assert_eq!(said("cat /etc/greeting"), "third", "the copy stays");
    bed.kill_and_delete(&id);
}
