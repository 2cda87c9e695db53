// SPDX-License-Identifier: Apache-2.0
//! Machines that boot, on a real KVM: host half and guest half of each test in one place.
//!
//! A host that cannot run guests says so in one line and passes; with `CUBE_REQUIRE_KVM=1` it
//! fails. `dev/vm cargo test -p cube-vmm --test vm_boot` runs them anywhere.

mod machine;

use std::time::Instant;

use cube_vmm::config::MIN_MEMORY_MIB;
use cube_vmm::exit::ExitReason;
use machine::{Guest, Machine, host_runs_guests, stock_kernel};

#[test]
fn a_stock_kernel_reaches_user_space_with_all_processors_and_powers_off() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let script = "echo user space with $(nproc) processors > /dev/console";
    for vcpus in [1, 2, 8] {
        let mut guest = Guest::script(kernel.clone(), script);
        guest.vcpus = vcpus;
        let begun = Instant::now();
        let mut machine = Machine::run(guest);
        machine.wait_for_serial(&format!("user space with {vcpus} processors"));
        println!(
            "{vcpus} processors: in user space after {:?}",
            begun.elapsed()
        );
        assert_eq!(machine.wait(), ExitReason::Stopped, "{}", machine.log());
        println!("{vcpus} processors: off after {:?}", begun.elapsed());
    }
}

#[test]
fn an_unpacked_kernel_boots_too() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let kernel = kernel.with_file_name("vmlinux");
    if !kernel.exists() {
        println!("skipped: there is no {}", kernel.display());
        return;
    }
    let begun = Instant::now();
    let mut machine = Machine::run(Guest::script(kernel, "echo user space > /dev/console"));
    machine.wait_for_serial("user space");
    println!("in user space after {:?}", begun.elapsed());
    assert_eq!(machine.wait(), ExitReason::Stopped);
}

#[test]
fn the_least_memory_is_enough_for_user_space() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let mut guest = Guest::script(kernel, "grep MemAvailable /proc/meminfo > /dev/console");
    guest.memory_mib = MIN_MEMORY_MIB;
    let mut machine = Machine::run(guest);
    machine.wait_for_serial("MemAvailable");
    println!("{}", machine.serial());
    assert_eq!(machine.wait(), ExitReason::Stopped);
}

#[test]
fn memory_above_four_gib_is_found() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let mut guest = Guest::script(kernel, "grep MemTotal /proc/meminfo > /dev/console");
    guest.memory_mib = 8192;
    let mut machine = Machine::run(guest);
    machine.wait_for_serial(" kB");
    let serial = machine.serial();
    let line = serial
        .lines()
        .find(|line| line.contains("MemTotal"))
        .unwrap();
    let kib: u32 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mib = kib / 1024;
    assert!((7900..8192).contains(&mib), "{serial}");
}

#[test]
fn a_panicking_kernel_ends_its_machine_and_is_heard() {
    let (true, Some(kernel)) = (host_runs_guests(), stock_kernel()) else {
        return;
    };
    let script = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger";
    let mut machine = Machine::run(Guest::script(kernel, script));
    assert_eq!(machine.wait(), ExitReason::GuestReset, "{}", machine.log());
    assert!(
        machine.serial().contains("Kernel panic"),
        "{}",
        machine.serial()
    );
}
