// SPDX-License-Identifier: Apache-2.0
//! Runs end-to-end cases: one after the other, on shared beds, with a search for leftovers after each.
//!
//! Not libtest, because here daemons outlive a test and die with the run, a test that cannot run
//! counts as skipped and not as passed, and the time and the leftovers of each are part of its result.
//! Takes what libtest takes where it matters: words that a name has to contain, and `--list`.

mod case;
mod tally;

use std::env;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

pub use case::{Case, On, case};
use case::{Planned, plan};
use tally::Tally;

use crate::bed::{Bed, Runtime};
use crate::host;
use crate::leftovers::{View, end_processes, remaining};
use crate::series::Series;

/// What a panic said, left here by the hook for the runner to print.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the groups of cases that the command line asks for.
pub fn main(groups: &[(&str, &[Case])]) -> ExitCode {
    let (options, words): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|word| word.starts_with('-'));
    let planned = plan(groups, &wanted_series(), &words);
    if options.iter().any(|option| option == "--list") {
        planned
            .iter()
            .for_each(|planned| say(&format!("{}: test", planned.name)));
        return ExitCode::SUCCESS;
    }
    let runtime = Runtime::tested();
    if let Some(reason) = why_not(runtime) {
        return skip_all(&planned, &reason);
    }
    keep_panics();
    let begun = Instant::now();
    say(&format!(
        "\nrunning {} tests with {}",
        planned.len(),
        runtime.name()
    ));
    let mut tally = Tally::default();
    for series in Series::ALL {
        let here: Vec<_> = planned
            .iter()
            .filter(|planned| planned.series == series)
            .collect();
        run_on(series, runtime, &here, &mut tally);
    }
    say(&tally.closing(begun.elapsed()));
    exit_code(tally.is_good())
}

/// Those that `CUBE_E2E_SERIES` names, or all.
fn wanted_series() -> Vec<Series> {
    let wanted = env::var("CUBE_E2E_SERIES").unwrap_or_default();
    let is_wanted =
        |series: &Series| wanted.is_empty() || wanted.split(',').any(|name| name == series.name());
    Series::ALL.into_iter().filter(is_wanted).collect()
}

fn why_not(runtime: Runtime) -> Option<String> {
    let no_machines = match runtime {
        Runtime::Cube => host::why_no_machines(),
        Runtime::Runc | Runtime::RuncOnOurDisks => None,
    };
    let why = host::why_no_containers().or(no_machines);
    why.or_else(|| {
        host::own_mounts()
            .err()
            .map(|error| format!("no mount namespace: {error}"))
    })
}

/// One line for all; a failure where machines are required.
fn skip_all(planned: &[Planned], reason: &str) -> ExitCode {
    let is_required = env::var("CUBE_REQUIRE_KVM").is_ok_and(|value| value == "1");
    let mut tally = Tally::default();
    for Planned { name, .. } in planned {
        if is_required {
            tally.fail(name, std::time::Duration::ZERO, reason, "");
        } else {
            tally.skip(name, reason);
        }
    }
    let word = if is_required {
        "cannot run, though CUBE_REQUIRE_KVM=1"
    } else {
        "skipped"
    };
    say(&format!("{} tests {word}: {reason}", planned.len()));
    say(&tally.closing(std::time::Duration::ZERO));
    exit_code(tally.is_good())
}

fn run_on(series: Series, runtime: Runtime, planned: &[&Planned], tally: &mut Tally) {
    if planned.is_empty() {
        return;
    }
    if !series.is_present() {
        let reason = format!("no containerd {series} was unpacked (dev/setup)");
        planned
            .iter()
            .for_each(|planned| say(&tally.skip(&planned.name, &reason)));
        return;
    }
    let begun = Instant::now();
    let Ok(mut bed) = catch_unwind(|| Bed::start(series, runtime, series.name())) else {
        let name = format!("{series} start of the daemons");
        return say(&tally.fail(&name, begun.elapsed(), &take_panic(), ""));
    };
    for Planned { name, case, .. } in planned {
        if case.ours_only && runtime != Runtime::Cube {
            say(&tally.skip(name, "is about our runtime"));
        } else {
            run_one(tally, &mut bed, name, *case);
        }
    }
    let begun = Instant::now();
    if catch_unwind(AssertUnwindSafe(|| bed.dismiss_resident())).is_err() {
        let name = format!("{series} end of the resident");
        say(&tally.fail(&name, begun.elapsed(), &take_panic(), &bed.logs()));
    }
}

fn run_one(tally: &mut Tally, bed: &mut Bed, name: &str, case: Case) {
    let begun = Instant::now();
    let mut before = View::take(&bed.watched());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if case.needs_resident {
            bed.resident();
        }
        if let Some(image) = case.image {
            bed.import(image, bed.runtime.snapshotter());
        }
        before = View::take(&bed.watched());
        (case.run)(bed);
        let left = remaining(&before, &bed.watched());
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }));
    if outcome.is_ok() {
        return say(&tally.pass(name, begun.elapsed()));
    }
    say(&tally.fail(name, begun.elapsed(), &take_panic(), &bed.logs()));
    clean_up(bed, &before);
}

/// So that the next case starts afresh; what will not go is told, because it may be why the next one fails too.
fn clean_up(bed: &mut Bed, before: &View) {
    if catch_unwind(AssertUnwindSafe(|| bed.sweep())).is_err() {
        say(&format!(
            "cleaning up after it failed too: {}",
            take_panic()
        ));
    }
    let left = remaining(before, &bed.watched());
    if !left.is_empty() {
        say(&format!(
            "still there after cleaning up:\n  {}",
            left.join("\n  ")
        ));
        end_processes(&left);
    }
}

/// Panics are how tests fail: their text is printed with the result and not in between.
fn keep_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map(|place| format!("{}:{}: ", place.file(), place.line()))
            .unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("a panic without a text");
        if let Ok(mut last) = LAST_PANIC.lock() {
            *last = format!("{place}{text}");
        }
    }));
}

fn take_panic() -> String {
    LAST_PANIC
        .lock()
        .map(|mut last| std::mem::take(&mut *last))
        .unwrap_or_default()
}

fn exit_code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn say(line: &str) {
    writeln!(io::stdout(), "{line}").ok(); // nobody may be listening any more; the exit code still tells
}
