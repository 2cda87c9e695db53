// SPDX-License-Identifier: Apache-2.0
//! Is `/dev/kvm` there, may it be used, and does it run a kernel in useful time?

use std::fs::OpenOptions;
use std::io;

use cube_vmm::probe::{self, Grade, ProbeError, Speed};

use super::Verdict;
use crate::error::chain;

/// What to do on a host that cannot run machines.
const ELSEWHERE: &str =
    "use a host with VT-x or AMD-V, or run the tests in the development VM: dev/vm";

pub(super) fn check() -> Verdict {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(device) => judge_speed(probe::measure(device.into())),
        Err(error) => judge_absence(&error),
    }
}

fn judge_absence(error: &io::Error) -> Verdict {
    match error.kind() {
        io::ErrorKind::NotFound => Verdict::bad(
            "/dev/kvm does not exist",
            "modprobe kvm_intel or kvm_amd; if that fails, turn virtualisation on in the firmware \
             (in a VM: nested virtualisation on its host)",
        ),
        io::ErrorKind::PermissionDenied => Verdict::bad(
            "/dev/kvm may not be opened",
            "run as root (a container needs --device /dev/kvm)",
        ),
        _ => Verdict::bad(format!("/dev/kvm cannot be opened: {error}"), ELSEWHERE),
    }
}

fn judge_speed(measured: Result<Speed, ProbeError>) -> Verdict {
    let speed = match measured {
        Ok(speed) => speed,
        Err(error) => {
            return Verdict::bad(
                format!("/dev/kvm opens but runs no guest: {}", chain(&error)),
                ELSEWHERE,
            );
        }
    };
    let figures = format!(
        "{:.1} ns per instruction of guest kernel code, {:.0} us per exit",
        speed.ns_per_instruction, speed.exit_us
    );
    match speed.grade() {
        Grade::Hardware => Verdict::good(format!("hardware virtualisation, {figures}")),
        Grade::Emulated => Verdict::warning(
            format!("virtualisation is emulated, {figures}"),
            "everything works, 5 to 40 times slower than on hardware: good for tests only",
        ),
        Grade::Unusable => Verdict::bad(
            format!("guest kernel code is interpreted, {figures}: no kernel boots in useful time"),
            ELSEWHERE,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn the_speed_of_a_guest_decides() {
        let check = |ns_per_instruction, exit_us, expect: Status, words: &str| {
            let verdict = judge_speed(Ok(Speed {
                ns_per_instruction,
                exit_us,
            }));
            assert_eq!(verdict.status, expect, "{verdict:?}");
            assert!(verdict.found.contains(words), "{verdict:?}");
        };
        check(0.4, 1.2, Status::Good, "hardware");
        check(2.3, 55.0, Status::Warning, "emulated");
        check(340.0, 30.0, Status::Bad, "interpreted");
    }

    #[test]
    fn an_absent_and_a_forbidden_device_are_mended_differently() {
        let absent = judge_absence(&io::ErrorKind::NotFound.into());
        let forbidden = judge_absence(&io::ErrorKind::PermissionDenied.into());
        assert!(absent.mend.unwrap().contains("modprobe"));
        assert!(forbidden.mend.unwrap().contains("root"));
    }

    #[test]
    fn a_guest_that_does_not_run_is_no_kvm() {
        let verdict = judge_speed(Err(ProbeError::Deadline));
        assert_eq!(verdict.status, Status::Bad);
        assert!(verdict.found.contains("did not end"), "{verdict:?}");
    }
}
