// SPDX-License-Identifier: Apache-2.0
//! Runs end-to-end cases: one after the other, on shared beds, with a search for leftovers after each.
//!
//! Not libtest, because here daemons outlive a test and die with the run, a test that cannot run
//! counts as skipped and not as passed, and the time and the leftovers of each are part of its result.
//! Takes what libtest takes where it matters: words that a name has to contain, and `--list`.

use std::any::Any;
use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use crate::bed::{Bed, Runtime};
use crate::host;
use crate::leftovers::{View, remaining};
use crate::series::Series;

/// On which containerds a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On all: what depends on containerd.
    Every,
    /// On one: what is ours alone.
    One(Series),
}

/// A test.
#[derive(Clone, Copy)]
pub struct Case {
    /// Input and outcome.
    pub name: &'static str,
    /// Where it runs.
    pub on: On,
    /// Whether it means nothing with another runtime than ours.
    pub ours_only: bool,
    /// Whether it uses the bed's resident, which then is no leftover.
    pub needs_resident: bool,
    /// The test itself; a panic is its failure.
    pub run: fn(&mut Bed),
}

/// A case for every containerd and every runtime.
pub const fn case(name: &'static str, run: fn(&mut Bed)) -> Case {
    Case {
        name,
        on: On::Every,
        ours_only: false,
        needs_resident: false,
        run,
    }
}

impl Case {
    /// On one containerd only.
    #[must_use]
    pub const fn on(mut self, series: Series) -> Self {
        self.on = On::One(series);
        self
    }

    /// With our runtime only.
    #[must_use]
    pub const fn ours(mut self) -> Self {
        self.ours_only = true;
        self
    }

    /// With the bed's resident.
    #[must_use]
    pub const fn resident(mut self) -> Self {
        self.needs_resident = true;
        self
    }
}

/// What is to be run.
struct Plan {
    /// The cases of each containerd, in the order of their list.
    cases: Vec<(Series, String, Case)>,
    runtime: Runtime,
}

impl Plan {
    fn new(groups: &[(&str, &[Case])], words: &[String]) -> Self {
        let wanted = env::var("CUBE_E2E_SERIES").unwrap_or_default();
        let is_wanted = |series: &Series| {
            wanted.is_empty() || wanted.split(',').any(|name| name == series.name())
        };
        let mut cases = Vec::new();
        for series in Series::ALL.into_iter().filter(is_wanted) {
            for (group, list) in groups {
                for case in list
                    .iter()
                    .filter(|case| case.on == On::Every || case.on == On::One(series))
                {
                    let name = format!("{series} {group}::{}", case.name);
                    if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
                        cases.push((series, name, *case));
                    }
                }
            }
        }
        Self {
            cases,
            runtime: Runtime::tested(),
        }
    }
}

#[derive(Default)]
struct Tally {
    passed: Vec<String>,
    failed: Vec<String>,
    skipped: Vec<String>,
}

/// What a panic said, left here by the hook for the runner to print.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the groups of cases that the command line asks for.
pub fn main(groups: &[(&str, &[Case])]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .cloned()
        .collect();
    let plan = Plan::new(groups, &words);
    if arguments.iter().any(|argument| argument == "--list") {
        for (_, name, _) in &plan.cases {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = why_not(plan.runtime) {
        return skip_all(&plan, &reason);
    }
    keep_panics();
    let begun = Instant::now();
    say(&format!(
        "\nrunning {} tests with {}",
        plan.cases.len(),
        plan.runtime.name()
    ));
    let tally = run_all(&plan);
    close(&tally, begun)
}

fn why_not(runtime: Runtime) -> Option<String> {
    let no_machines = match runtime {
        Runtime::Cube => host::why_no_machines(),
        Runtime::Runc => None,
    };
    let why = host::why_no_containers().or(no_machines);
    why.or_else(|| {
        host::own_mounts()
            .err()
            .map(|error| format!("no mount namespace: {error}"))
    })
}

/// One line for all, unless machines are required.
fn skip_all(plan: &Plan, reason: &str) -> ExitCode {
    let count = plan.cases.len();
    if env::var("CUBE_REQUIRE_KVM").is_ok_and(|value| value == "1") {
        say(&format!(
            "{count} tests cannot run, and CUBE_REQUIRE_KVM=1: {reason}"
        ));
        say(&format!(
            "test result: FAILED. 0 passed; {count} failed; 0 ignored"
        ));
        return ExitCode::FAILURE;
    }
    say(&format!("{count} tests skipped: {reason}"));
    say(&format!(
        "test result: ok. 0 passed; 0 failed; {count} ignored"
    ));
    ExitCode::SUCCESS
}

fn run_all(plan: &Plan) -> Tally {
    let mut tally = Tally::default();
    let mut by_series: BTreeMap<Series, Vec<(&String, Case)>> = BTreeMap::new();
    for (series, name, case) in &plan.cases {
        by_series.entry(*series).or_default().push((name, *case));
    }
    for (series, cases) in by_series {
        if !series.is_present() {
            for (name, _) in cases {
                skip(
                    &mut tally,
                    name,
                    &format!("no containerd {series} was unpacked (dev/setup)"),
                );
            }
            continue;
        }
        let begun = Instant::now();
        let started = catch_unwind(|| Bed::start(series, plan.runtime, series.name()));
        let Ok(mut bed) = started else {
            fail(
                &mut tally,
                &format!("{series} start of the daemons"),
                begun,
                &take_panic(),
                "",
            );
            continue;
        };
        for (name, case) in cases {
            if case.ours_only && plan.runtime != Runtime::Cube {
                skip(&mut tally, name, "is about our runtime");
            } else {
                run_one(&mut tally, &mut bed, name, case);
            }
        }
        if catch_unwind(AssertUnwindSafe(|| bed.dismiss_resident())).is_err() {
            fail(
                &mut tally,
                &format!("{series} end of the resident"),
                begun,
                &take_panic(),
                &bed.logs(),
            );
        }
    }
    tally
}

fn run_one(tally: &mut Tally, bed: &mut Bed, name: &str, case: Case) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if case.needs_resident {
            bed.resident();
        }
        let files = bed.watched();
        let before = View::take(&files);
        (case.run)(bed);
        let left = remaining(&before, &files);
        assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    }));
    match outcome {
        Ok(()) => {
            say(&format!(
                "test {name} ... ok ({:.1} s)",
                begun.elapsed().as_secs_f64()
            ));
            tally.passed.push(name.into());
        }
        Err(payload) => {
            let said = take_panic();
            drop::<Box<dyn Any + Send>>(payload);
            fail(tally, name, begun, &said, &bed.logs());
            bed.sweep();
        }
    }
}

fn fail(tally: &mut Tally, name: &str, begun: Instant, said: &str, logs: &str) {
    say(&format!(
        "test {name} ... FAILED ({:.1} s)\n{said}\n{logs}",
        begun.elapsed().as_secs_f64()
    ));
    tally.failed.push(name.into());
}

fn skip(tally: &mut Tally, name: &str, reason: &str) {
    say(&format!("test {name} ... skipped, {reason}"));
    tally.skipped.push(name.into());
}

/// The closing lines have libtest's form, so that whoever counts tests can count these.
fn close(tally: &Tally, begun: Instant) -> ExitCode {
    let Tally {
        passed,
        failed,
        skipped,
    } = tally;
    if !failed.is_empty() {
        say(&format!("\nfailures:\n    {}", failed.join("\n    ")));
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    say(&format!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored; finished in {:.0} s",
        passed.len(),
        failed.len(),
        skipped.len(),
        begun.elapsed().as_secs_f64()
    ));
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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

fn say(line: &str) {
    // Nobody may be listening any more; the exit code still tells.
    writeln!(io::stdout(), "{line}").ok();
}
