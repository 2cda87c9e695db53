// SPDX-License-Identifier: Apache-2.0
//! Machines that are saved and restored, on a real KVM: host half and guest half of each test in one
//! place.
//!
//! A host that cannot run guests says so in one line and passes; with `CUBE_REQUIRE_KVM=1` it
//! fails. `dev/vm cargo test -p cube-vmm --test vm_snapshot` runs them anywhere.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code, though clippy does not see it inside a test function"
)]

mod machine;

use std::io::{Seek, SeekFrom, Write};
use std::thread;
use std::time::{Duration, Instant};

use cube_snapshot::working_set::WorkingSet;
use cube_vmm::control::ControlError;
use cube_vmm::exit::ExitReason;
use machine::{Guest, Machine, Snapshot, host_runs_guests, stock_kernel};

/// Writes the alphabet over and over, a letter each time round a loop that keeps the next one in AL,
/// in memory and in the debug register DR0, and ends the machine when they differ:
/// ```text
///   mov dx, 0x3f8; mov al, 'a'; lea rbx, [0x2000000]; mov [rbx], al; movzx ecx, al; mov dr0, rcx
/// again: out dx, al
///   cmp [rbx], al; jne bad; mov rcx, dr0; cmp cl, al; jne bad
///   inc al; cmp al, 'z'; jbe keep; mov al, 'a'
/// keep: mov [rbx], al; movzx ecx, al; mov dr0, rcx; jmp again
/// bad: ud2
/// ```
const ALPHABET: [u8; 53] = [
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'a', 0x48, 0xc7, 0xc3, 0x00, 0x00, 0x00, 0x02, 0x88, 0x03, 0x0f,
    0xb6, 0xc8, 0x0f, 0x23, 0xc1, // again:
    0xee, 0x38, 0x03, 0x75, 0x19, 0x0f, 0x21, 0xc1, 0x38, 0xc1, 0x75, 0x12, 0xfe, 0xc0, 0x3c, b'z',
    0x76, 0x02, 0xb0, b'a', // keep:
    0x88, 0x03, 0x0f, 0xb6, 0xc8, 0x0f, 0x23, 0xc1, 0xeb, 0xe2, // bad:
    0x0f, 0x0b,
];

fn follows(before: &str, after: &str) {
    let next = |byte: u8| if byte == b'z' { b'a' } else { byte + 1 };
    let all: Vec<u8> = before.bytes().chain(after.bytes()).collect();
    for pair in all.windows(2) {
        assert_eq!(pair[1], next(pair[0]), "{before:.40}...{after:.40}");
    }
}

#[test]
fn registers_and_memory_go_on_where_they_were_in_every_clone_and_in_the_source() {
    if !host_runs_guests() {
        return;
    }
    let mut source = Machine::run(Guest::code(&ALPHABET));
    source.wait_for_serial("z");
    source.client.pause().unwrap();
    let written = source.serial();
    let snapshot = source.save(None);
    source.client.resume().unwrap();
    let clones: Vec<_> = (0..3).map(|_| Machine::restored(&snapshot)).collect();
    for mut clone in clones {
        clone.wait_for_serial("z");
        clone.client.pause().unwrap();
        follows(&written[written.len() - 1..], &clone.serial());
        clone.client.quit().unwrap();
        assert_eq!(clone.wait(), ExitReason::Stopped);
    }
    source.wait_for_serial(&format!("{written}z").split_off(written.len()));
    source.client.pause().unwrap();
    follows("", &source.serial());
}

#[test]
fn a_running_machine_is_not_saved() {
    if !host_runs_guests() {
        return;
    }
    let mut machine = Machine::run(Guest::code(&ALPHABET));
    let files = cube_vmm::control::SaveFiles {
        state: tempfile::tempfile().unwrap().into(),
        memory: tempfile::tempfile().unwrap().into(),
        pagemap: tempfile::tempfile().unwrap().into(),
    };
    let error = machine.client.save(&files).unwrap_err().to_string();
    assert_eq!(
        error,
        "the VMM could not save: the machine is running; it has to be paused first"
    );
}

#[test]
fn damaged_foreign_and_newer_snapshots_are_refused_by_name() {
    if !host_runs_guests() {
        return;
    }
    let mut source = Machine::run(Guest::code(&ALPHABET));
    source.wait_for_serial("z");
    source.client.pause().unwrap();
    let good = source.save(None);
    let check = |damage: &dyn Fn(&mut Snapshot), expected: &str| {
        let mut snapshot = Snapshot {
            state: copy(&good.again().state),
            memory: good.again().memory,
            working_set: None,
        };
        damage(&mut snapshot);
        let mut machine = Machine::spawn();
        let error = match machine.restore(&snapshot) {
            Err(error @ ControlError::Refused { .. }) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        };
        assert!(error.contains(expected), "{error}");
        assert_eq!(machine.wait(), ExitReason::BootFailed);
    };
    let put = |snapshot: &mut Snapshot, at: u64, byte: u8| {
        snapshot.state.seek(SeekFrom::Start(at)).unwrap();
        snapshot.state.write_all(&[byte]).unwrap();
    };
    check(
        &|it| it.state.set_len(100).unwrap(),
        "could not be read to its end",
    );
    check(
        &|it| it.state.set_len(0).unwrap(),
        "could not be read to its end",
    );
    check(&|it| put(it, 200, 0xee), "has been altered");
    check(&|it| put(it, 0, b'X'), "is no machine state");
    check(&|it| put(it, 12, 99), "has version 99");
    check(
        &|it| it.memory = tempfile::tempfile().unwrap(),
        "the memory file has 0 bytes",
    );
}

fn copy(file: &std::fs::File) -> std::fs::File {
    let mut copy = tempfile::tempfile().unwrap();
    std::io::copy(&mut &*file, &mut copy).unwrap();
    copy
}

/// Counts on the console, at an interval that a timer makes, and says on which processor and at what
/// time since the boot.
const TICKS: &str = "i=0; while :; do i=$((i+1)); read up rest < /proc/uptime
    echo tick $i at $up! > /dev/console; sleep 0.05; done";

/// More than from one tick to the next on the busiest host.
const INTERVAL: Duration = Duration::from_secs(1);

struct Tick {
    number: u32,
    at_s: f64,
}

fn ticks(serial: &str) -> Vec<Tick> {
    let lines = serial.lines().filter(|line| line.ends_with('!'));
    lines
        .filter_map(|line| {
            let mut words = line
                .strip_prefix("tick ")?
                .trim_end_matches('!')
                .split(" at ");
            Some(Tick {
                number: words.next()?.parse().ok()?,
                at_s: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

fn wait_for_ticks(machine: &mut Machine, count: usize) {
    let enough = ticks(&machine.serial()).len() + count;
    let begun = Instant::now();
    while ticks(&machine.serial()).len() < enough {
        assert!(
            begun.elapsed() < machine::PATIENCE,
            "{}\n{}",
            machine.serial(),
            machine.log()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// A stock kernel with two processors, its timers and its clock, in a chain of snapshots.
#[test]
fn linux_goes_on_in_a_chain_of_snapshots() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let begun = Instant::now();
    let mut guest = Guest::script(kernel, TICKS);
    guest.vcpus = 2;
    let mut machine = Machine::run(guest);
    machine.wait_for_serial("tick 1 ");
    println!("boot to the first tick: {:?}", begun.elapsed());
    wait_for_ticks(&mut machine, 10);

    let mut parent: Option<Snapshot> = None;
    for depth in 1..=4 {
        machine.client.pause().unwrap();
        let last = ticks(&machine.serial()).pop().unwrap();
        let begun = Instant::now();
        let snapshot = machine.save(parent.as_ref());
        println!("depth {depth}: saved in {:?}", begun.elapsed());
        machine.client.quit().unwrap();
        // The time in between is nobody's.
        thread::sleep(Duration::from_millis(300));

        let begun = Instant::now();
        machine = Machine::restored(&snapshot);
        let answered = begun.elapsed();
        wait_for_ticks(&mut machine, 1);
        let ticked = begun.elapsed();
        println!("depth {depth}: restored in {answered:?}, first tick after {ticked:?}");
        wait_for_ticks(&mut machine, 20);
        let after = ticks(&machine.serial());
        let first = after.first().unwrap();
        // A line that was cut by the save counts for neither side.
        assert!(
            (1..=2).contains(&(first.number - last.number)),
            "{} after {}",
            first.number,
            last.number
        );
        // The guest's time went on where it was: it has seen no more of it than has passed since.
        let gap = Duration::from_secs_f64(first.at_s - last.at_s);
        assert!(gap < ticked + INTERVAL, "{gap:?} in {ticked:?}");
        for pair in after.windows(2) {
            assert_eq!(pair[1].number, pair[0].number + 1);
            assert!(pair[1].at_s >= pair[0].at_s);
        }
        parent = Some(snapshot);
    }
    assert!(!machine.serial().contains("rcu"), "{}", machine.serial());
}

#[test]
fn a_working_set_is_recorded_and_fetched() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let mut source = Machine::run(Guest::script(kernel, TICKS));
    source.wait_for_serial("tick 3 ");
    source.client.pause().unwrap();
    let mut snapshot = source.save(None);
    drop(source);

    let mut first = Machine::spawn();
    first.record = true;
    first.restore(&snapshot).unwrap();
    wait_for_ticks(&mut first, 3);
    let recorded = first.working_set();
    drop(first);
    snapshot.working_set = Some(recorded);
    let set = WorkingSet::read(&mut snapshot.again().working_set.unwrap()).unwrap();
    let pages = (
        WorkingSet::pages(&set.read),
        WorkingSet::pages(&set.written),
    );
    println!("read {} pages, wrote {}", pages.0, pages.1);
    assert!(pages.0 > 10 && pages.1 > 10, "{pages:?}");

    for with in [true, false, true, false, true, false] {
        let mut snapshot = snapshot.again();
        if !with {
            snapshot.working_set = None;
        }
        let begun = Instant::now();
        let mut machine = Machine::restored(&snapshot);
        let answered = begun.elapsed();
        wait_for_ticks(&mut machine, 1);
        println!(
            "with the working set {with}: restored in {answered:?}, first tick after {:?}",
            begun.elapsed()
        );
        assert_eq!(machine.log(), "");
    }
}
