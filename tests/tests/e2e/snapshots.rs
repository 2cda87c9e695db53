// SPDX-License-Identifier: Apache-2.0
//! Sandboxes saved with their container running, and others that start from what was saved.

use cube_tests::bed::Bed;
use cube_tests::bounded::{Program, STEP_LIMIT, eventually};
use cube_tests::cni::Cni;
use cube_tests::ctr::BUSYBOX;
use cube_tests::series::our_programs;
use cube_tests::suite::{Case, case};

use crate::{ALSO_MAIN, MAIN};

pub const CASES: &[Case] = &[
    case("clones_go_on_where_their_source_was_saved", clones)
        .on(MAIN)
        .ours(),
    case("clone_has_its_own_streams_network_and_name", attached)
        .on(ALSO_MAIN)
        .ours(),
    case("what_cannot_be_saved_or_started_says_why", refused)
        .on(ALSO_MAIN)
        .ours(),
];

fn cube(bed: &Bed, arguments: &[&str]) -> Program {
    Program::new(our_programs().join("cube"))
        .env("CUBE_CONFIG", bed.config())
        .args(arguments)
}

/// Counts in memory, and says in a file how far it is.
const COUNT: &str =
    "i=0; while true; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; sleep 0.1; done";

fn count(bed: &mut Bed, id: &str) -> u64 {
    let said = bed.exec(id, "cat /count").run().succeeded().out();
    said.trim().parse().expect("it is a number")
}

fn from(snapshot: &str) -> String {
    format!("io.cube.snapshot={snapshot}")
}

fn clones(bed: &mut Bed) {
    let source = bed.id("source");
    bed.run(&["-d"], BUSYBOX, &source, &["sh", "-c", COUNT])
        .run()
        .succeeded();
    eventually("some counting", STEP_LIMIT, || count(bed, &source) >= 5);
    bed.exec(
        &source,
        "echo before >/mark; cat /proc/sys/kernel/random/uuid >/dev/null",
    )
    .run()
    .succeeded();
    let name = bed.id("first");
    let saved_from = count(bed, &source);
    cube(bed, &["snapshot", "create", &source, &name])
        .run()
        .succeeded();
    let saved_until = count(bed, &source);
    eventually("a source that goes on", STEP_LIMIT, || {
        count(bed, &source) > saved_until + 3
    });
    bed.exec(&source, "echo after >/mark").run().succeeded();

    // Two at once from one snapshot, and the source beside them.
    let ids = [bed.id("left"), bed.id("right")];
    for id in &ids {
        let flags = ["-d", "--annotation", &from(&name)];
        // What the command says does not matter: the process goes on.
        bed.run(&flags, BUSYBOX, id, &["sh", "-c", COUNT])
            .run()
            .succeeded();
    }
    for id in &ids {
        let mark = bed.exec(id, "cat /mark").run().succeeded().out();
        assert_eq!(mark, "before");
        let at = count(bed, id);
        assert!(at >= saved_from, "{at} is before {saved_from}");
        eventually("a clone that goes on", STEP_LIMIT, || {
            count(bed, id) > at + 3
        });
    }
    let random = |bed: &mut Bed, id: &str| {
        let uuid = "cat /proc/sys/kernel/random/uuid";
        bed.exec(id, uuid).run().succeeded().out()
    };
    let numbers = [&ids[0], &ids[1], &source].map(|id| random(bed, id));
    assert!(
        numbers[0] != numbers[1] && numbers[1] != numbers[2],
        "{numbers:?}"
    );
    bed.exec(&ids[0], "echo mine >/own").run().succeeded();
    assert_ne!(bed.exec(&ids[1], "cat /own").run().code(), 0);

    // A snapshot of a clone, whose parent may go.
    let second = bed.id("second");
    cube(bed, &["snapshot", "create", &ids[0], &second])
        .run()
        .succeeded();
    let tree = cube(bed, &["snapshot", "tree"]).run().succeeded().out();
    assert!(tree.contains(&format!("  {second}")), "{tree}");
    bed.kill_and_delete(&ids[0]);
    cube(bed, &["snapshot", "rm", &name]).run().succeeded();
    let third = bed.id("third");
    let flags = ["-d", "--annotation", &from(&second)];
    bed.run(&flags, BUSYBOX, &third, &["sh", "-c", COUNT])
        .run()
        .succeeded();
    let own = bed.exec(&third, "cat /own").run().succeeded().out();
    assert_eq!(own, "mine");
    let at = count(bed, &third);
    eventually("a clone of a clone", STEP_LIMIT, || count(bed, &third) > at);
    for id in [&ids[1], &third, &source] {
        bed.kill_and_delete(id);
    }
    cube(bed, &["snapshot", "rm", &second]).run().succeeded();
}

/// Waits for a file, says what is in it and ends with that.
const WAIT: &str = "while [ ! -e /stop ]; do sleep 0.1; done; echo over; cat /stop; exit 3";

fn attached(bed: &mut Bed) {
    let cni = Cni::bridge(bed);
    let source = bed.id("source");
    let hosts = |bed: &mut Bed, about: &str| {
        let path = bed.scratch(about);
        std::fs::write(&path, format!("127.0.0.1 {about}\n")).expect("the bed's disk has room");
        format!(
            "type=bind,src={},dst=/etc/hosts,options=rbind:ro",
            path.display()
        )
    };
    let mount = hosts(bed, "of-the-source");
    let flags = ["-d", "--cni", "--mount", &mount];
    let run = bed.run(&flags, BUSYBOX, &source, &["sh", "-c", WAIT]);
    cni.client(bed, &run).run().succeeded();
    let name = bed.id("waiting");
    cube(bed, &["snapshot", "create", &source, &name])
        .run()
        .succeeded();
    let clone = bed.id("clone");
    let mount = hosts(bed, "of-the-clone");
    let from = from(&name);
    let flags = ["--rm", "--cni", "--mount", &mount, "--annotation", &from];
    let run = bed.run(&flags, BUSYBOX, &clone, &["sh", "-c", WAIT]);
    let running = cni.client(bed, &run).start();
    let show = "cat /etc/hosts; ip -o -4 addr show dev eth0 | sed 's|.* inet \\([0-9.]*\\)/.*|\\1|'
        ping -c 1 -W 20 10.77.0.1 >/dev/null && echo reaches";
    eventually("clone", STEP_LIMIT, || {
        bed.exec(&clone, "true").run().code() == 0
    });
    let said = bed.exec(&clone, show).run().succeeded().out();
    assert!(
        ["10.77.0.3", "reaches", "of-the-clone"]
            .iter()
            .all(|word| said.contains(word)),
        "{said}"
    );
    let said = bed.exec(&source, show).run().succeeded().out();
    assert!(
        ["10.77.0.2", "reaches", "of-the-source"]
            .iter()
            .all(|word| said.contains(word)),
        "{said}"
    );
    bed.exec(&clone, "echo later >/stop").run().succeeded();
    let ended = running.wait().expect_code(3);
    assert_eq!(ended.out(), "over\nlater");
    super::network::end(bed, &cni, &source);
    for about in ["of-the-source", "of-the-clone"] {
        std::fs::remove_file(bed.scratch(about)).expect("it was made above");
    }
    cube(bed, &["snapshot", "rm", &name]).run().succeeded();
}

fn refused(bed: &mut Bed) {
    let source = bed.id("source");
    bed.run(&["-d"], BUSYBOX, &source, &["sleep", "100000"])
        .run()
        .succeeded();
    let name = bed.id("one");
    let create =
        |bed: &Bed, of: &str, name: &str| cube(bed, &["snapshot", "create", of, name]).run();
    create(bed, &source, &name).succeeded();
    create(bed, &source, &name).refused(&["already", &name]);
    create(bed, &source, "../x").refused(&["../x"]);
    create(bed, "nobody", "x").refused(&["nobody"]);
    cube(bed, &["snapshot", "rm", "none-such"])
        .run()
        .refused(&["none-such"]);
    let id = bed.id("lost");
    bed.run(
        &["--annotation", &from("none-such")],
        BUSYBOX,
        &id,
        &["true"],
    )
    .run()
    .refused(&["none-such", "cube snapshot ls"]);
    bed.ctr(&["container", "delete", &id]).run().succeeded();
    // And it still runs.
    bed.exec(&source, "true").run().succeeded();
    bed.kill_and_delete(&source);
    cube(bed, &["snapshot", "rm", &name]).run().succeeded();
}
