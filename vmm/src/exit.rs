// SPDX-License-Identifier: Apache-2.0
//! Why a `cube-vmm` process ended, as its exit code.
//!
//! One enum for both sides: `main` turns the reason into a code, the runtime turns the
//! code back. The words that go with a failure are in the VMM's log (its stderr); the
//! code only lets a program tell the kinds apart.

use std::fmt;
use std::process::ExitStatus;

/// Why the VMM's process ended. The numbers are a contract with the runtime: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitReason {
    /// The guest powered off, the runtime sent quit, or the runtime closed the control socket.
    Stopped = 0,
    /// The process was started without a control socket on descriptor 0, or with wrong arguments.
    Usage = 2,
    /// The machine could not be built or jailed; the reply to `boot` or `restore` said why.
    BootFailed = 10,
    /// The guest asked for a reset. A panic of the guest kernel ends so too (`panic=-1`).
    GuestReset = 11,
    /// The guest's virtual processor shut down (triple fault).
    GuestFault = 12,
    /// KVM refused to run the guest any further.
    Hypervisor = 13,
    /// A device's thread failed on the host's side.
    Device = 14,
    /// The control socket failed, or carried what no runtime of this version sends.
    Control = 15,
    /// A bug in the VMM: some thread panicked.
    Panicked = 70,
}

impl ExitReason {
    const ALL: [ExitReason; 9] = [
        ExitReason::Stopped,
        ExitReason::Usage,
        ExitReason::BootFailed,
        ExitReason::GuestReset,
        ExitReason::GuestFault,
        ExitReason::Hypervisor,
        ExitReason::Device,
        ExitReason::Control,
        ExitReason::Panicked,
    ];

    /// The exit code of the process.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason behind an exit code, if a VMM of this version can have given it.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| i32::from(reason.code()) == code)
    }

    /// The reason behind a wait status; `None` for a death by signal or an unknown code.
    pub fn from_status(status: ExitStatus) -> Option<Self> {
        status.code().and_then(Self::from_code)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ExitReason::Stopped => "the machine was stopped",
            ExitReason::Usage => "cube-vmm was started by something else than the cube runtime",
            ExitReason::BootFailed => "the machine could not be built",
            ExitReason::GuestReset => "the guest kernel panicked or asked for a reset",
            ExitReason::GuestFault => "a virtual processor of the guest shut down (triple fault)",
            ExitReason::Hypervisor => "the host's KVM refused to run the guest",
            ExitReason::Device => "a device of the machine failed on the host",
            ExitReason::Control => "the control socket failed",
            ExitReason::Panicked => "cube-vmm hit a bug in itself",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn every_code_decodes_to_its_reason() {
        for reason in ExitReason::ALL {
            assert_eq!(ExitReason::from_code(reason.code().into()), Some(reason));
        }
    }

    #[test]
    fn unknown_codes_and_signals_decode_to_none() {
        assert_eq!(ExitReason::from_code(1), None);
        assert_eq!(ExitReason::from_code(-1), None);
        assert_eq!(ExitReason::from_status(ExitStatus::from_raw(9)), None);
        assert_eq!(
            ExitReason::from_status(ExitStatus::from_raw(11 << 8)),
            Some(ExitReason::GuestReset)
        );
    }
}
