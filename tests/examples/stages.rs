// SPDX-License-Identifier: Apache-2.0
//! Where the time of one container goes, ours beside runc's in the same run, and what ours costs in memory and on disk.
//!
//! ```text
//! cargo build -p cube-tests --example stages
//! dev/vm target/debug/examples/stages [ROUNDS]
//! ```
//!
//! Not a test: it judges nothing. The client's own start is part of every line and has a line of its own.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use cube_tests::bed::{Bed, Runtime, Settings};
use cube_tests::bounded::Program;
use cube_tests::ctr::BUSYBOX;
use cube_tests::host;
use cube_tests::series::{Series, guest_image, our_programs};

const SERIES: Series = Series::V1_7;
/// A mapping of this size in a VMM is the memory of its guest.
const GUEST_MEMORY_KIB: u64 = 100 << 10;

/// Samples in milliseconds, by what was measured.
type Samples = BTreeMap<String, Vec<f64>>;

fn main() -> io::Result<()> {
    let rounds = env::args()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(3);
    let mut out = io::stdout();
    if let Some(reason) = host::why_no_containers().or_else(host::why_no_machines) {
        return writeln!(out, "cannot measure here: {reason}");
    }
    host::own_mounts()?;
    let (mut ours, mut runcs) = (Samples::new(), Samples::new());
    let mut cube = Bed::start(SERIES, Runtime::Cube, "cube");
    let mut runc = Bed::start(SERIES, Runtime::Runc, "runc");
    let traced = Settings {
        more: "trace = true",
        ..Settings::default()
    };
    let costs = cube.with_settings(&traced, |cube| {
        for _ in 0..rounds {
            measure(cube, &mut ours);
            measure(&mut runc, &mut runcs);
        }
        memory(cube)
    });
    writeln!(out, "containerd {SERIES}, {rounds} rounds, medians in ms")?;
    table(&mut out, &ours, &runcs)?;
    writeln!(out, "\nstages inside our shim (medians in ms)")?;
    table(&mut out, &stage_lines(&cube.whole_log()), &Samples::new())?;
    writeln!(out, "\nmemory of one idle sandbox")?;
    writeln!(out, "{costs}\nsizes on disk")?;
    sizes(&mut out)
}

/// One container, step by step as a client does it, then once more in one command.
fn measure(bed: &mut Bed, samples: &mut Samples) {
    let id = bed.id("measured");
    let exec_id = bed.id("exec");
    let (runtime, snapshotter) = (bed.runtime.name(), bed.runtime.snapshotter());
    let create = [
        "container",
        "create",
        "--runtime",
        runtime,
        "--snapshotter",
        snapshotter,
        BUSYBOX,
        &id,
        "sleep",
        "1000",
    ];
    let mut time = |name: &str, program: Program| {
        let ended = program.run().succeeded();
        samples
            .entry(name.into())
            .or_default()
            .push(ended.took.as_secs_f64() * 1e3);
    };
    time("0 client alone (ctr version)", bed.ctr(&["version"]));
    time("1 container create (prepare a snapshot)", bed.ctr(&create));
    time(
        "2 task start (create and start)",
        bed.ctr(&["task", "start", "-d", &id]),
    );
    time(
        "3 exec of true",
        bed.ctr(&["task", "exec", "--exec-id", &exec_id, &id, "true"]),
    );
    time("4 kill", bed.ctr(&["task", "kill", "-s", "SIGKILL", &id]));
    bed.await_state(&id, "STOPPED");
    time("5 task delete", bed.ctr(&["task", "delete", &id]));
    time("6 container delete", bed.ctr(&["container", "delete", &id]));
    let id = bed.id("whole");
    time(
        "7 ctr run --rm true, in all",
        bed.run(&["--rm"], BUSYBOX, &id, &["true"]),
    );
}

fn table(out: &mut impl Write, ours: &Samples, theirs: &Samples) -> io::Result<()> {
    if !theirs.is_empty() {
        writeln!(out, "{:44} {:>9} {:>9} {:>7}", "", "cube", "runc", "ratio")?;
    }
    for (name, samples) in ours {
        let mine = median(samples);
        match theirs.get(name).map(|samples| median(samples)) {
            Some(other) => writeln!(out, "{name:44} {mine:9.1} {other:9.1} {:7.2}", mine / other)?,
            None => writeln!(out, "{name:44} {mine:9.1}")?,
        }
    }
    Ok(())
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The shim's trace, as it arrives in containerd's log: `stage=NAME ms=NUMBER`, in whatever order and quotes.
fn stage_lines(log: &str) -> Samples {
    let mut samples = Samples::new();
    for line in log.lines().map(|line| line.replace(['"', '\\'], " ")) {
        let word = |key: &str| {
            line.split_once(key)
                .and_then(|(_, rest)| rest.split_whitespace().next())
        };
        if let (Some(stage), Some(Ok(ms))) = (word("stage="), word("ms=").map(str::parse)) {
            samples.entry(stage.into()).or_default().push(ms);
        }
    }
    samples
}

/// Proportional set sizes of what runs for one sandbox, and of the snapshotter.
fn memory(bed: &mut Bed) -> String {
    let id = bed.sleeper("idle", &[]);
    let vmm = bed.task_pid(&id);
    let mut text = String::new();
    let (own, guest) = pss_kib(vmm);
    text += &format!(
        "{:44} {own:7} KiB PSS\n{:44} {guest:7} KiB PSS\n",
        "cube-vmm without guest memory", "guest memory"
    );
    let shim = pss_kib(bed.shim_pid(&id)).0;
    text += &format!("{:44} {shim:7} KiB PSS\n", "containerd-shim-cube-v1");
    bed.kill_and_delete(&id);
    text
}

/// Of all mappings but the guest's memory, and of that.
fn pss_kib(pid: i32) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("root may read it");
    let (mut own, mut guest, mut size) = (0, 0, 0);
    for line in maps.lines() {
        let value = || {
            line.split_whitespace()
                .nth(1)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or_default()
        };
        if line.starts_with("Size:") {
            size = value();
        } else if line.starts_with("Pss:") {
            *(if size > GUEST_MEMORY_KIB {
                &mut guest
            } else {
                &mut own
            }) += value();
        }
    }
    (own, guest)
}

fn sizes(out: &mut impl Write) -> io::Result<()> {
    let programs = [
        "containerd-shim-cube-v1",
        "cube-vmm",
        "cube-snapshotter",
        "cube",
    ]
    .map(|name| our_programs().join(name));
    let image = ["vmlinuz", "initramfs"].map(|name| guest_image().join(name));
    for path in programs.iter().chain(&image) {
        let size = fs::metadata(path).map(|metadata| metadata.len() >> 10);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(out, "{name:44} {:7} KiB", size.unwrap_or_default())?;
    }
    let agent = agent_size(&guest_image().join("initramfs"));
    writeln!(out, "{:44} {agent}", "cube-agent (in the initramfs)")
}

/// The agent is the initramfs's `init`; cpio tells its size.
fn agent_size(initramfs: &Path) -> String {
    let script = format!(
        "(zcat {0} || zstdcat {0} || cat {0}) 2>/dev/null | busybox cpio -tv 2>/dev/null",
        initramfs.display()
    );
    let list = Program::new("sh").args(["-c", &script]).run().out();
    let line = list.lines().find(|line| line.ends_with(" init"));
    let size = line.and_then(|line| {
        line.split_whitespace()
            .nth(2)
            .and_then(|size| size.parse::<u64>().ok())
    });
    size.map_or_else(
        || "not found".into(),
        |bytes| format!("{:7} KiB", bytes >> 10),
    )
}
