// SPDX-License-Identifier: Apache-2.0
//! What tells this machine from every other that was started from the same template.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::SystemTime;

use rustix::fs::Timespec;
use rustix::system::sethostname;
use rustix::time::{ClockId, clock_settime};

use crate::error::AgentError;
use crate::sys;

/// Fewest random bytes: as many as the kernel's generator is seeded with.
const MIN_ENTROPY: usize = 32;

/// Longest host name (`__NEW_UTS_LEN` of linux/utsname.h).
const MAX_HOSTNAME: usize = 64;

/// As the host gives it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Of the machine; containers may have their own.
    pub hostname: String,
    /// The host's clock.
    pub realtime: SystemTime,
    /// At least [`MIN_ENTROPY`], at most [`sys::MAX_ENTROPY`] bytes.
    pub entropy: Vec<u8>,
    /// 32 hexadecimal digits for /etc/machine-id; empty: none.
    pub machine_id: String,
}

/// Mixes the random bytes in and counts them.
pub fn add_entropy(claim: &Claim) -> Result<(), AgentError> {
    let sizes = MIN_ENTROPY..=sys::MAX_ENTROPY;
    if !sizes.contains(&claim.entropy.len()) {
        return Err(AgentError::Request {
            field: "entropy",
            reason: format!(
                "{} bytes are not between {} and {}",
                claim.entropy.len(),
                sizes.start(),
                sizes.end()
            ),
        });
    }
    fs::File::open("/dev/urandom")
        .and_then(|random| sys::add_entropy(random.as_fd(), &claim.entropy))
        .map_err(failed("entropy"))
}

/// Everything else.
pub fn set(claim: &Claim) -> Result<(), AgentError> {
    check(claim)?;
    let since_epoch = claim
        .realtime
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = Timespec {
        tv_sec: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(since_epoch.subsec_nanos()),
    };
    clock_settime(ClockId::Realtime, now).map_err(|errno| failed("clock")(errno.into()))?;
    if !claim.hostname.is_empty() {
        sethostname(claim.hostname.as_bytes())
            .map_err(|errno| failed("host name")(errno.into()))?;
    }
    if !claim.machine_id.is_empty() {
        fs::create_dir_all("/etc")
            .and_then(|()| fs::write("/etc/machine-id", format!("{}\n", claim.machine_id)))
            .map_err(failed("machine id"))?;
    }
    Ok(())
}

fn check(claim: &Claim) -> Result<(), AgentError> {
    let refuse = |field, reason: &str| {
        Err(AgentError::Request {
            field,
            reason: reason.to_owned(),
        })
    };
    if claim.hostname.len() > MAX_HOSTNAME {
        return refuse("hostname", "it is longer than 64 bytes");
    }
    let id = &claim.machine_id;
    let is_id = id.len() == 32
        && id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !id.is_empty() && !is_id {
        return refuse("machine_id", "it is not 32 lower-case hexadecimal digits");
    }
    Ok(())
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |error| AgentError::Identity {
        what,
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            hostname: "h".to_owned(),
            realtime: SystemTime::UNIX_EPOCH,
            entropy: vec![0; 32],
            machine_id: "0123456789abcdef".repeat(2),
        }
    }

    #[test]
    fn a_claim_is_checked_before_anything_changes() {
        assert!(check(&claim()).is_ok());
        let long = Claim {
            hostname: "x".repeat(65),
            ..claim()
        };
        assert!(check(&long).is_err());
        for id in ["1", &"G".repeat(32), &"A".repeat(32)] {
            let wrong = Claim {
                machine_id: id.to_owned(),
                ..claim()
            };
            assert!(check(&wrong).is_err(), "{id}");
        }
        for len in [0, 31, 129] {
            let wrong = Claim {
                entropy: vec![0; len],
                ..claim()
            };
            assert!(add_entropy(&wrong).is_err(), "{len}");
        }
    }
}
