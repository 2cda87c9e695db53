// SPDX-License-Identifier: Apache-2.0
//! The form of the report, frozen: `CUBE_UPDATE_GOLDEN=1` writes the file anew, for a review to see.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::host::Kvm;
use super::super::idle::{Cost, Split};
use super::*;

fn host() -> Host {
    Host {
        cpu: Some("A CPU".into()),
        cpus: 2,
        microcode: Some("0x1".into()),
        virtual_machine: true,
        dev_vm: true,
        kvm: Some(Kvm {
            grade: "emulated",
            ns_per_instruction: 2.3,
            exit_us: 55.0,
        }),
        memory_mib: 8192,
        kernel: "6.12".into(),
        mitigations: BTreeMap::from([("spectre_v2".into(), "Vulnerable".into())]),
        huge_pages: Some("madvise".into()),
        cgroup: 2,
        governor: None,
        containerd: Some("1.7.24".into()),
        version: "0.1.0",
        commit: Some("0123456789ab".into()),
    }
}

fn series(times: &[f64], failures: &[&str]) -> Series {
    Series {
        samples: times
            .iter()
            .map(|ms| Sample {
                ms: *ms,
                stages: vec![("start", ms / 2.0), ("exit", ms * 2.0)],
            })
            .collect(),
        failures: failures.iter().map(|&failure| failure.into()).collect(),
    }
}

fn side(name: &str, times: &[f64], failures: &[&str], extra: Option<Extra>) -> SideReport {
    SideReport {
        snapshotter: Some("overlayfs".into()),
        filesystem: Some("xfs".into()),
        ..SideReport::new(name.into(), series(times, failures), extra)
    }
}

fn exit(times: &[f64]) -> Option<Extra> {
    let samples = series(times, &[]).samples;
    Some(Extra::Exit(UntilExit::of(&samples)))
}

fn burst(throughput_per_s: f64) -> Option<Extra> {
    Some(Extra::Bursts(Bursts {
        wall_ms: vec![8.0],
        throughput_per_s: Some(throughput_per_s),
    }))
}

fn idle(bytes_per_sandbox: i64) -> Option<Extra> {
    let at = |after_s| CostAt {
        after_s,
        cost: Cost {
            bytes_per_sandbox,
            split: Split {
                shim: 1,
                vmm: 2,
                guest: 3,
                kernel: bytes_per_sandbox - 6,
            },
        },
    };
    Costs::new(vec![at(10), at(60)]).map(Extra::Idle)
}

fn reports() -> Vec<Report> {
    let two = |what, ours: Option<Extra>, theirs| {
        let sides = vec![
            side("io.cube.v1", &[2.0, 4.0], &["no memory"], ours),
            side("io.containerd.runc.v2", &[4.0, 8.0], &[], theirs),
        ];
        Report::new(what, 2, sides, host()).unwrap()
    };
    let alone = SideReport::new("KVM".into(), series(&[], &["no KVM"]), None);
    vec![
        two("exec", None, None),
        two("start", exit(&[2.0, 4.0]), exit(&[1.0, 2.0])),
        two("burst", burst(250.0), burst(100.0)),
        two("idle", idle(3000), idle(1000)),
        Report::new("shell", 1, vec![alone], host()).unwrap(),
    ]
}

#[test]
fn the_form_of_a_report_is_a_promise() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/report.golden.json");
    let text = serde_json::to_string_pretty(&reports()).unwrap() + "\n";
    if std::env::var_os("CUBE_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "if it is meant: CUBE_UPDATE_GOLDEN=1");
}

#[test]
fn ratios_are_ours_over_theirs() {
    let reports = reports();
    let ratios = |at: usize| reports[at].ratios.clone().unwrap();
    assert_eq!(ratios(0).ratio_p50, Some(0.5));
    assert_eq!(ratios(1).ratio_exit_p50, Some(2.0));
    assert_eq!(ratios(2).ratio_throughput, Some(2.5));
    assert_eq!(ratios(3).ratio_bytes, Some(3.0));
}

#[test]
fn a_report_with_a_failure_is_not_complete() {
    let report = |failures: &[&str]| {
        let sides = vec![
            side("a", &[1.0], &[], None),
            side("b", &[1.0], failures, None),
        ];
        Report::new("start", 1, sides, host()).unwrap()
    };
    assert!(report(&[]).is_complete());
    assert!(!report(&["no"]).is_complete());
}

#[test]
fn a_report_on_one_line_has_no_line_ends() {
    for report in reports() {
        assert!(!serde_json::to_string(&report).unwrap().contains('\n'));
    }
}
