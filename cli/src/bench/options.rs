// SPDX-License-Identifier: Apache-2.0
//! The command line of `cube bench`, with the definition of each mark as its help.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::lab::Side;

/// A container's disk and process that every measured image has to offer: `true` and `sleep`.
const IMAGE: &str = "docker.io/library/busybox:latest";

const RUNC: &str = "io.containerd.runc.v2";
const OURS: &str = "io.cube.v1";

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum What {
    /// A virtual machine and nothing else: KVM_CREATE_VM until two instructions of a guest have run
    ///
    /// No VMM process, no kernel, no containerd: the least that any start on this host can cost.
    Shell(Shell),
    /// A sandbox without containerd: spawn of the VMM until its agent has answered and was claimed
    ///
    /// The sandbox has the default machine of the configuration, and no container in it. Its guest is restored
    /// from a template, which is made first if it is not there. A sandbox that came to life in another way than
    /// the one measured is a failure. Its removal is the stage `destroy`, and not in the figure.
    Ready(Ready),
    /// One container over containerd's API: `true`, from Prepare until Start has answered
    ///
    /// In the figure: Prepare of its snapshot, Create of its container, Create and Start of its task. When
    /// Start answers, the user's process runs. The other stages are shown beside it and are not in the
    /// figure: `exit` until containerd has told of the end of `true`, `delete` of the task, `remove` of the
    /// container and its snapshot. `exit_p50_ms` is from Prepare until that end was told.
    Start(Turns),
    /// One more process in a running container: `true`, from the request until its end is told
    ///
    /// In the figure: Exec, Start, and Wait's answer. `delete` of the process is shown beside it.
    Exec(Turns),
    /// N containers at once: each from the common beginning until its Start has answered
    ///
    /// The containers sleep, so that all are there at once, and are removed when the last has started.
    /// `wall_ms` is until the last of a round; `throughput_per_s` is started containers over the sum of that.
    Burst(Burst),
    /// N idle containers, one started after the other: host memory for each
    ///
    /// `bytes_per_sandbox` is the fall of MemAvailable since before the first start, divided by N, at the
    /// last of the times asked for. Its split: `shim` and `vmm` are proportional set sizes, `vmm` without the
    /// guest's memory; `guest` is what of the guest's memory is private and dirty; `kernel` is the rest,
    /// less what a set size has of programs' files, which counts as available.
    /// With another runtime `vmm` is the container's own process. The times in milliseconds are of the starts.
    Idle(Idle),
}

/// How a report is given.
#[derive(Clone, Debug, Args)]
pub struct Output {
    /// End with one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Write the report with all samples into a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
}

/// Which containerd, which image, which runtimes.
#[derive(Clone, Debug, Args)]
pub struct Containers {
    /// The runtime to measure: its name, or `runc`
    #[arg(long, default_value = OURS, value_parser = runtime)]
    pub runtime: String,
    /// Its snapshotter [default: cube, or overlayfs for another runtime than ours]
    #[arg(long)]
    pub snapshotter: Option<String>,
    /// Another runtime to compare with, sample by sample in turn: its name, or `runc`
    #[arg(long, value_name = "RUNTIME", value_parser = runtime)]
    pub against: Option<String>,
    /// The snapshotter of the other
    #[arg(long, value_name = "SNAPSHOTTER", requires = "against")]
    pub against_snapshotter: Option<String>,
    /// An image that containerd has, with `true` and `sleep` in it
    #[arg(long, value_name = "REF", default_value = IMAGE)]
    pub image: String,
    /// containerd's namespace
    #[arg(long, env = "CONTAINERD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// containerd's socket
    #[arg(
        long,
        value_name = "SOCK",
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub address: PathBuf,
}

/// Options of `cube bench shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// Samples
    #[arg(short, default_value_t = 20, value_parser = at_least_one())]
    pub n: u32,
    #[command(flatten)]
    pub output: Output,
}

/// Options of `cube bench ready`.
#[derive(Debug, Args)]
pub struct Ready {
    /// Samples
    #[arg(short, default_value_t = 20, value_parser = at_least_one())]
    pub n: u32,
    /// Measure a boot of the guest's kernel instead
    #[arg(long)]
    pub cold: bool,
    /// Another way to compare with, sample by sample in turn
    #[arg(long, value_name = "WAY", conflicts_with = "cold")]
    pub against: Option<Way>,
    #[command(flatten)]
    pub output: Output,
}

/// How a sandbox comes to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// As every start does it: from a template.
    #[value(skip)]
    Warm,
    /// From a template, without reading in ahead what starts touch
    NoPrefault,
    /// By booting the guest's kernel
    Cold,
}

/// Options of what is measured one after the other.
#[derive(Debug, Args)]
pub struct Turns {
    /// Samples of each runtime
    #[arg(short, default_value_t = 20, value_parser = at_least_one())]
    pub n: u32,
    #[command(flatten)]
    pub containers: Containers,
    #[command(flatten)]
    pub output: Output,
}

/// Options of `cube bench burst`.
#[derive(Debug, Args)]
pub struct Burst {
    #[command(flatten)]
    pub size: Size,
    /// Bursts of each runtime
    #[arg(long, default_value_t = 1, value_parser = at_least_one())]
    pub rounds: u32,
    #[command(flatten)]
    pub containers: Containers,
    #[command(flatten)]
    pub output: Output,
}

/// Options of `cube bench idle`.
#[derive(Debug, Args)]
pub struct Idle {
    #[command(flatten)]
    pub size: Size,
    /// When to look, in seconds after the last start
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', default_values_t = [10, 60])]
    pub after: Vec<u64>,
    #[command(flatten)]
    pub containers: Containers,
    #[command(flatten)]
    pub output: Output,
}

/// How many containers are there at once.
#[derive(Debug, Args)]
pub struct Size {
    /// Containers at once
    #[arg(value_name = "N", default_value_t = 10, value_parser = at_least_one())]
    at_once: u32,
    /// The same, as an option
    #[arg(short, value_name = "N", conflicts_with = "at_once", value_parser = at_least_one())]
    n: Option<u32>,
}

impl What {
    /// Its name in a report.
    pub fn name(&self) -> &'static str {
        match self {
            What::Shell(_) => "shell",
            What::Ready(_) => "ready",
            What::Start(_) => "start",
            What::Exec(_) => "exec",
            What::Burst(_) => "burst",
            What::Idle(_) => "idle",
        }
    }

    /// Samples of each side, or containers at once.
    pub fn n(&self) -> u32 {
        match self {
            What::Shell(Shell { n, .. })
            | What::Ready(Ready { n, .. })
            | What::Start(Turns { n, .. })
            | What::Exec(Turns { n, .. }) => *n,
            What::Burst(Burst { size, .. }) | What::Idle(Idle { size, .. }) => size.get(),
        }
    }

    /// How its report is given.
    pub fn output(&self) -> &Output {
        match self {
            What::Shell(Shell { output, .. })
            | What::Ready(Ready { output, .. })
            | What::Start(Turns { output, .. })
            | What::Exec(Turns { output, .. })
            | What::Burst(Burst { output, .. })
            | What::Idle(Idle { output, .. }) => output,
        }
    }
}

impl Ready {
    /// The ways to measure: the first is the one asked about.
    pub fn ways(&self) -> Vec<Way> {
        let measured = if self.cold { Way::Cold } else { Way::Warm };
        [measured].into_iter().chain(self.against).collect()
    }
}

impl Size {
    /// The number, however it was given.
    pub fn get(&self) -> u32 {
        self.n.unwrap_or(self.at_once)
    }
}

impl Containers {
    /// The runtimes with their snapshotters: the measured one, and the one to compare with.
    pub fn sides(&self) -> Vec<Side> {
        let of = |runtime: &String, snapshotter: &Option<String>| {
            let usual = if runtime == OURS { "cube" } else { "overlayfs" };
            let snapshotter = snapshotter.clone().unwrap_or_else(|| usual.to_owned());
            Side {
                runtime: runtime.clone(),
                snapshotter,
            }
        };
        let measured = of(&self.runtime, &self.snapshotter);
        let against = self.against.iter();
        let against = against.map(|runtime| of(runtime, &self.against_snapshotter));
        [measured].into_iter().chain(against).collect()
    }
}

/// containerd makes a program's name of a runtime's last two words.
fn runtime(name: &str) -> Result<String, &'static str> {
    match name {
        "runc" => Ok(RUNC.to_owned()),
        name if name.split('.').filter(|word| !word.is_empty()).count() >= 2 => Ok(name.to_owned()),
        _ => Err("a runtime is called like io.cube.v1, or runc for short"),
    }
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        what: What,
    }

    fn parse(line: &str) -> Result<What, String> {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(line.what)
    }

    fn sides(line: &str) -> Vec<Side> {
        let Ok(What::Start(Turns { containers, .. })) = parse(line) else {
            panic!("{line} is not understood");
        };
        containers.sides()
    }

    #[test]
    fn each_runtime_has_its_usual_snapshotter_unless_told() {
        let check = |line, expect: &[(&str, &str)]| {
            let found = sides(line);
            let found: Vec<_> = found
                .iter()
                .map(|side| (&*side.runtime, &*side.snapshotter))
                .collect();
            assert_eq!(found, expect, "{line}");
        };
        check("start", &[("io.cube.v1", "cube")]);
        check(
            "start --against runc",
            &[("io.cube.v1", "cube"), (RUNC, "overlayfs")],
        );
        check("start --runtime runc --snapshotter cube", &[(RUNC, "cube")]);
        check(
            "start --runtime runc --against io.cube.v1 --against-snapshotter other",
            &[(RUNC, "overlayfs"), ("io.cube.v1", "other")],
        );
    }

    #[test]
    fn the_size_is_a_word_or_an_option_but_not_both() {
        let check = |line, expect| {
            let size = match parse(line).unwrap() {
                What::Burst(Burst { size, .. }) | What::Idle(Idle { size, .. }) => size,
                other => panic!("{other:?}"),
            };
            assert_eq!(size.get(), expect, "{line}");
        };
        check("burst", 10);
        check("burst 3", 3);
        check("idle -n 50 --json", 50);
        parse("burst 3 -n 4").unwrap_err();
        parse("burst 0").unwrap_err();
    }

    #[test]
    fn a_sandbox_is_restored_unless_told() {
        let check = |line, expect: &[Way]| {
            let Ok(What::Ready(ready)) = parse(line) else {
                panic!("{line} is not understood");
            };
            assert_eq!(ready.ways(), expect, "{line}");
        };
        check("ready", &[Way::Warm]);
        check("ready --cold", &[Way::Cold]);
        check("ready --against cold", &[Way::Warm, Way::Cold]);
        check("ready --against no-prefault", &[Way::Warm, Way::NoPrefault]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "start -n 0",
            "start --against kata",
            "start --against-snapshotter x",
            "shell --against runc",
            "ready --against runc",
            "ready --against warm",
            "ready --cold --against cold",
            "everything",
        ] {
            parse(line).unwrap_err();
        }
    }
}
