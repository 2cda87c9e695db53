// SPDX-License-Identifier: Apache-2.0
//! The harness that measures: that it does, that its last line is what programs expect, and that it
//! leaves nothing behind. What it measures is judged elsewhere (`make bench`).

use cube_tests::bed::Bed;
use cube_tests::bounded::Program;
use cube_tests::ctr::NAMESPACE;
use cube_tests::series::our_programs;
use cube_tests::suite::{Case, case};
use serde_json::Value;

use crate::MAIN;

pub const CASES: &[Case] = &[
    case("ready_of_two_ways_is_restored_in_both", ready)
        .on(MAIN)
        .ours(),
    case("start_of_two_runtimes_ends_with_a_line_of_json", start).ours(),
    case("exec_of_two_runtimes_ends_with_a_line_of_json", exec)
        .on(MAIN)
        .ours(),
    case("idle_container_has_a_cost_in_every_part", idle)
        .on(MAIN)
        .ours(),
    case("interrupted_burst_leaves_nothing", interrupted)
        .on(MAIN)
        .ours(),
    case("unknown_image_and_snapshotter_are_refused_by_name", refused)
        .on(MAIN)
        .ours(),
];

fn bench(bed: &Bed, before: &[&str], args: &[&str]) -> Program {
    let cube = our_programs().join("cube");
    let cube = cube.to_str().expect("the checkout has a plain path");
    let words: Vec<&str> = before
        .iter()
        .chain(&[cube, "bench"])
        .chain(args)
        .copied()
        .collect();
    Program::new(words[0])
        .args(&words[1..])
        .args(["--namespace", NAMESPACE, "--address"])
        .args([bed.address()])
}

/// The last line, which has to be about samples that were all taken.
#[track_caller]
fn report(bed: &Bed, args: &[&str]) -> Value {
    checked(args[0], bench(bed, &[], args))
}

#[track_caller]
fn checked(what: &str, bench: Program) -> Value {
    let said = bench.args(["--json"]).run().succeeded().out();
    let last = said.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last).expect("the last line is JSON");
    assert_eq!(report["what"], what, "{last}");
    assert_eq!(report["failures"], 0, "{last}");
    let in_order = ["p50_ms", "p90_ms", "p99_ms"].map(|key| figure(&report, key));
    assert!(in_order[0] > 0.0 && in_order.is_sorted(), "{last}");
    report
}

#[track_caller]
fn figure(report: &Value, key: &str) -> f64 {
    report[key]
        .as_f64()
        .unwrap_or_else(|| panic!("no {key} in {report}"))
}

#[track_caller]
fn has_both_sides(report: &Value) {
    assert_eq!(report["n"], 2);
    for side in ["measured", "against"] {
        let samples = report[side]["samples"].as_array().map(Vec::len);
        assert_eq!(samples, Some(2), "{side} of {report}");
    }
    let expected = figure(&report["measured"], "p50_ms") / figure(&report["against"], "p50_ms");
    let found = figure(report, "ratio_p50");
    assert!((found - expected).abs() < 0.01, "{found} for {expected}");
    assert!(figure(report, "ratio_p99") > 0.0);
}

/// A sample whose guest was booted would be a failure.
fn ready(bed: &mut Bed) {
    let cube = Program::new(our_programs().join("cube"));
    let ready = cube
        .args(["bench", "ready", "-n", "2", "--against", "no-prefault"])
        .env("CUBE_CONFIG", bed.config());
    has_both_sides(&checked("ready", ready));
}

fn start(bed: &mut Bed) {
    let report = report(bed, &["start", "-n", "2", "--against", "runc"]);
    has_both_sides(&report);
    let stages = report["measured"]["samples"][0]["stages"].as_object();
    let stages: Vec<_> = stages.expect("a sample has stages").keys().collect();
    for stage in [
        "prepare",
        "container",
        "create",
        "start",
        "exit",
        "delete",
        "remove",
    ] {
        assert!(stages.iter().any(|name| *name == stage), "{stages:?}");
    }
}

fn exec(bed: &mut Bed) {
    has_both_sides(&report(bed, &["exec", "-n", "2", "--against", "runc"]));
}

fn idle(bed: &mut Bed) {
    let report = report(bed, &["idle", "-n", "1", "--after", "1"]);
    let split = &report["split"];
    for part in ["shim", "vmm", "guest"] {
        assert!(figure(split, part) > 100_000.0, "{part} of {split}");
    }
    let sum: f64 = ["shim", "vmm", "guest", "kernel"]
        .map(|part| figure(split, part))
        .iter()
        .sum();
    assert!(
        (sum - figure(&report, "bytes_per_sandbox")).abs() < 1.0,
        "{report}"
    );
}

/// The bed looks for what is left: two machines were starting, or running, or being removed. `timeout`
/// sends its signal twice, as others do that pass one on.
fn interrupted(bed: &mut Bed) {
    let after_a_while = ["timeout", "--preserve-status", "--signal=INT", "10"];
    let burst = ["burst", "2", "--rounds", "1000"];
    let ended = bench(bed, &after_a_while, &burst).run().expect_code(130);
    assert!(
        ended.err().contains("interrupted by SIGINT"),
        "{}",
        ended.err()
    );
    let containers = bed.ctr(&["container", "ls", "-q"]).run().succeeded().out();
    assert!(!containers.contains("cube-bench"), "{containers}");
    let leases = bed.ctr(&["leases", "ls", "-q"]).run().succeeded().out();
    assert_eq!(leases, "");
}

fn refused(bed: &mut Bed) {
    let image = ["start", "--image", "docker.io/library/nosuch:latest"];
    bench(bed, &[], &image)
        .run()
        .refused(&["nosuch:latest", "ctr image pull"]);
    let snapshotter = ["start", "--snapshotter", "nosuch"];
    bench(bed, &[], &snapshotter)
        .run()
        .refused(&["snapshotter nosuch"]);
    let runtime = [
        "start",
        "-n",
        "1",
        "--runtime",
        "io.nosuch.v1",
        "--snapshotter",
        "cube",
    ];
    let ended = bench(bed, &[], &runtime).run().expect_code(1);
    assert!(
        ended.out().contains("containerd-shim-nosuch-v1"),
        "{}",
        ended.out()
    );
}
