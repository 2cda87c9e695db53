// SPDX-License-Identifier: Apache-2.0
//! `cube template`: the booted guests on disk that every sandbox is restored from.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Subcommand;
use cube_runtime::Config;
use cube_runtime::template::{self, Collected, Inspected, Listed, Store, TemplateState};

use crate::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Templates are made on first need and collected by age and size; \
    nobody has to do any of this by hand."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the templates of this host
    Ls {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a template before a sandbox needs it
    Build {
        /// Virtual processors of its machine; the configuration's by default
        #[arg(long)]
        vcpus: Option<u8>,
        /// Memory of its machine in MiB; the configuration's by default
        #[arg(long)]
        memory_mib: Option<u32>,
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove templates
    Rm {
        /// Names, as `ls` prints them
        #[arg(required = true)]
        names: Vec<String>,
        /// Also those that running sandboxes were restored from: the sandboxes live on
        #[arg(long)]
        force: bool,
    },
    /// Say everything about a template
    Inspect {
        /// Its name, as `ls` prints it
        name: String,
        /// Read its files and compare them with their digests
        #[arg(long)]
        verify: bool,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove what the configuration's limits do not allow, and what dead processes left
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Print the outcome as JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load()?;
    let store = Store::of(&config);
    match &arguments.command {
        Command::Ls { json } => list(&store, *json),
        Command::Build {
            vcpus,
            memory_mib,
            json,
        } => build(&config, *vcpus, *memory_mib, *json),
        Command::Rm { names, force } => remove(&store, names, *force),
        Command::Inspect { name, verify, json } => inspect(&store, name, *verify, *json),
        Command::Gc { dry_run, json } => collect(&store, *dry_run, *json),
    }
}

fn list(store: &Store, json: bool) -> anyhow::Result<ExitCode> {
    let listed = store.list()?;
    let printed = if json {
        output::print_json(&listed)
    } else {
        print_list(&listed)
    };
    output::unless_reader_left(printed)?;
    Ok(ExitCode::SUCCESS)
}

fn build(
    config: &Config,
    vcpus: Option<u8>,
    memory_mib: Option<u32>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime could not be started")?;
    let (vcpus, memory_mib) = (
        vcpus.unwrap_or(config.vcpus),
        memory_mib.unwrap_or(config.memory_mib),
    );
    let built = runtime.block_on(template::build(config, vcpus, memory_mib))?;
    let printed = if json {
        output::print_json(&built)
    } else {
        let verb = if built.was_there { "there is" } else { "made" };
        writeln!(io::stdout(), "{verb} {}", built.name)
    };
    output::unless_reader_left(printed)?;
    Ok(ExitCode::SUCCESS)
}

fn remove(store: &Store, names: &[String], force: bool) -> anyhow::Result<ExitCode> {
    let mut failures = false;
    for name in names {
        let line = match store.remove(name, force) {
            Ok(()) => format!("removed {name}"),
            Err(error) => {
                failures = true;
                format!("kept {name}: {:#}", anyhow::Error::new(error))
            }
        };
        output::unless_reader_left(writeln!(io::stdout(), "{line}"))?;
    }
    Ok(exit_code(!failures))
}

fn inspect(store: &Store, name: &str, verify: bool, json: bool) -> anyhow::Result<ExitCode> {
    let inspected = store.inspect(name, verify)?;
    let printed = if json {
        output::print_json(&inspected)
    } else {
        print_all(&inspected)
    };
    output::unless_reader_left(printed)?;
    let read = inspected.verified.iter().flatten();
    let good = inspected.listed.state == TemplateState::Good && read.into_iter().all(|f| f.good);
    Ok(exit_code(good))
}

fn collect(store: &Store, dry_run: bool, json: bool) -> anyhow::Result<ExitCode> {
    let collected = store.collect(dry_run)?;
    let printed = if json {
        output::print_json(&collected)
    } else {
        print_collected(&collected, dry_run)
    };
    output::unless_reader_left(printed)?;
    Ok(ExitCode::SUCCESS)
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_list(listed: &[Listed]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<16} {:<8} {:>5} {:>8} {:>8} {:>7} {:>7} KERNEL",
        "NAME", "STATE", "VCPUS", "MEMORY", "DISK", "AGE", "USED"
    )?;
    for one in listed {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        writeln!(
            out,
            "{:<16} {:<8} {:>5} {:>8} {:>8} {:>7} {:>7} {}",
            one.name,
            state(one),
            or_dash(one.vcpus.map(|vcpus| vcpus.to_string())),
            or_dash(one.memory_mib.map(|mib| format!("{mib}M"))),
            mib(one.disk_bytes),
            or_dash(one.created_s.map(age)),
            age(one.used_s),
            or_dash(one.guest_kernel.clone()),
        )?;
    }
    Ok(())
}

fn state(one: &Listed) -> &'static str {
    match (one.state, one.in_use) {
        (TemplateState::Unfit, _) => "unfit",
        (TemplateState::Good, true) => "in use",
        (TemplateState::Good, false) => "good",
    }
}

fn print_all(inspected: &Inspected) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let listed = &inspected.listed;
    writeln!(out, "{} is {}", listed.name, state(listed))?;
    if let Some(reason) = &listed.reason {
        writeln!(out, "  because {reason}")?;
    }
    writeln!(out, "  disk          {}", mib(listed.disk_bytes))?;
    writeln!(out, "  last used     {} ago", age(listed.used_s))?;
    if let Some(manifest) = &inspected.manifest {
        let made = &manifest.fingerprints;
        for (name, value) in [
            ("what", &manifest.name),
            ("key", &manifest.key),
            ("guest kernel", &made.guest_kernel),
            ("agent", &made.agent),
            ("vmm", &made.vmm),
            ("processor", &made.cpu),
            ("kvm", &made.kvm),
            ("host kernel", &made.host_kernel),
        ] {
            writeln!(out, "  {name:<13} {value}")?;
        }
    }
    for file in inspected.verified.iter().flatten() {
        let verdict = file.reason.as_deref().unwrap_or("as it was published");
        writeln!(out, "  {:<13} {verdict}", file.file)?;
    }
    Ok(())
}

fn print_collected(collected: &Collected, dry_run: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let verb = if dry_run { "would remove" } else { "removed" };
    for one in &collected.removed {
        writeln!(out, "{verb} {} ({})", one.name, mib(one.disk_bytes))?;
    }
    for name in &collected.left_overs {
        writeln!(out, "{verb} the left-over {name}")?;
    }
    writeln!(out, "kept {}", mib(collected.kept_bytes))
}

fn mib(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}

/// How long ago a moment was, with one unit.
fn age(since_s: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now
        .unwrap_or(Duration::ZERO)
        .as_secs()
        .saturating_sub(since_s);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
