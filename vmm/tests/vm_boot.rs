// SPDX-License-Identifier: Apache-2.0
//! Machines that boot, on a real KVM: host half and guest half of each test in one place.
//!
//! A host that cannot run guests says so in one line and passes; with `CUBE_REQUIRE_KVM=1` it
//! fails. `dev/vm cargo test -p cube-vmm --test vm_boot` runs them anywhere.

mod machine;

use std::time::Instant;

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
