// SPDX-License-Identifier: Apache-2.0
//! What tells this machine from every other that was restored from the same template, item by item. All of
//! them are set, in this order, before the claim is acknowledged, and so before any user process:
//!
//! - The wall clock, first because every moment before it makes it late; what the request took to arrive is
//!   made up for ([`way`]). Restored, it stands where the template was saved. `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` stay: they go on from there, and so count how
//!   long the machine ran, its template's boot included, and not how long the template lay on a disk.
//! - The kernel's random numbers: [`sys::add_entropy`] says why nothing else does it in time.
//! - `boot_id`: the kernel makes it up when it is first read (drivers/char/random.c, `proc_do_uuid`). Nothing
//!   reads it in a template, so the read here, after the new random numbers, makes this machine's own, which
//!   every /proc of every container shows, those included that a container mounts by itself.
//! - Host name, machine id.
//!
//! Nothing to do: addresses and neighbours, because a template has no interface but its loopback; random
//! numbers of user programs, because none has run.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::Timespec;
use rustix::system::sethostname;
use rustix::time::{ClockId, clock_settime};

use crate::error::AgentError;
use crate::sys;

/// Fewest random bytes: as many as the kernel's generator is seeded with.
const MIN_ENTROPY: usize = 32;

/// Longest host name (`__NEW_UTS_LEN` of linux/utsname.h).
const MAX_HOSTNAME: usize = 64;

/// Made by its first reader.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Of a UUID as text (RFC 9562).
const UUID_LEN: usize = 36;

/// As the host gives it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Of the machine; containers may have their own.
    pub hostname: String,
    /// The host's clock.
    pub realtime: SystemTime,
    /// How long the host had our greeting's answer when it read that clock; zero: unknown.
    pub since_greeting: Duration,
    /// At least [`MIN_ENTROPY`], at most [`sys::MAX_ENTROPY`] bytes.
    pub entropy: Vec<u8>,
    /// 32 hexadecimal digits, for the /etc/machine-id of images that leave it empty; empty: none.
    pub machine_id: String,
}

/// Checks a claim as a whole, so that a wrong one changes nothing.
pub fn check(claim: &Claim) -> Result<(), AgentError> {
    let refuse = |field, reason: String| Err(AgentError::Request { field, reason });
    let sizes = MIN_ENTROPY..=sys::MAX_ENTROPY;
    let size = claim.entropy.len();
    if !sizes.contains(&size) {
        let (least, most) = (sizes.start(), sizes.end());
        return refuse(
            "entropy",
            format!("{size} bytes are not between {least} and {most}"),
        );
    }
    if claim.hostname.len() > MAX_HOSTNAME {
        return refuse("hostname", "it is longer than 64 bytes".to_owned());
    }
    let id = &claim.machine_id;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_id = id.len() == 32 && id.bytes().all(is_digit);
    if !(id.is_empty() || is_id) {
        let reason = "it is not 32 lower-case hexadecimal digits".to_owned();
        return refuse("machine_id", reason);
    }
    Ok(())
}

/// The machine's clock.
pub fn set_clock(claim: &Claim, greeted_at: Option<Instant>) -> Result<(), AgentError> {
    let sent = claim
        .realtime
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    if sent == Duration::ZERO {
        return Err(AgentError::Request {
            field: "realtime_ns",
            reason: "is missing".to_owned(),
        });
    }
    let way = greeted_at.map_or(Duration::ZERO, |at| way(at.elapsed(), claim.since_greeting));
    let now = sent.saturating_add(way);
    let now = Timespec {
        tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(now.subsec_nanos()),
    };
    clock_settime(ClockId::Realtime, now).map_err(|errno| failed("clock")(errno.into()))?;
    tracing::info!(?way, "clock set");
    Ok(())
}

/// How long the claim was under way, if the answer to the greeting before it took as long: half of the
/// `exchange`, which began with that answer, without the time that it spent with the host. Wrong by no more
/// than itself.
fn way(exchange: Duration, with_host: Duration) -> Duration {
    if with_host == Duration::ZERO {
        return Duration::ZERO;
    }
    exchange.saturating_sub(with_host) / 2
}

/// Mixes the random bytes in and counts them.
pub fn add_entropy(claim: &Claim) -> Result<(), AgentError> {
    File::open("/dev/urandom")
        .and_then(|random| sys::add_entropy(random.as_fd(), &claim.entropy))
        .map_err(failed("entropy"))
}

/// Has the kernel make the machine's `boot_id`; after [`add_entropy`].
pub fn make_boot_id() -> Result<(), AgentError> {
    let made = fs::read_to_string(BOOT_ID).and_then(|id| match id.trim().len() {
        UUID_LEN => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    });
    made.map_err(failed("boot id"))
}

/// The machine's name.
pub fn set_hostname(claim: &Claim) -> Result<(), AgentError> {
    if claim.hostname.is_empty() {
        return Ok(());
    }
    sethostname(claim.hostname.as_bytes()).map_err(|errno| failed("host name")(errno.into()))
}

/// A file with the machine id, for containers.
pub fn write_machine_id(claim: &Claim, path: &Path) -> Result<(), AgentError> {
    if claim.machine_id.is_empty() {
        return Ok(());
    }
    fs::write(path, format!("{}\n", claim.machine_id)).map_err(failed("machine id"))
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
            since_greeting: Duration::ZERO,
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
            assert!(check(&wrong).is_err(), "{len}");
        }
    }

    #[test]
    fn a_claim_without_the_time_does_not_set_the_clock() {
        let error = set_clock(&claim(), None).unwrap_err();
        assert_eq!(error.to_string(), "realtime_ns: is missing");
    }

    #[test]
    fn the_way_of_a_claim_is_half_of_what_the_host_does_not_account_for() {
        let ms = Duration::from_millis;
        assert_eq!(way(ms(100), ms(40)), ms(30));
        // A host that does not say leaves the clock late rather than guessed.
        assert_eq!(way(ms(100), ms(0)), ms(0));
        assert_eq!(way(ms(40), ms(100)), ms(0));
    }

    #[test]
    fn a_failure_names_its_item() {
        let error = write_machine_id(&claim(), Path::new("/does/not/exist")).unwrap_err();
        assert_eq!(error.to_string(), "cannot set the machine's machine id");
    }

    #[test]
    fn a_machine_id_is_a_line_and_none_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let none = Claim {
            machine_id: String::new(),
            ..claim()
        };
        write_machine_id(&none, &path).unwrap();
        assert!(!path.exists());
        write_machine_id(&claim(), &path).unwrap();
        let line = fs::read_to_string(&path).unwrap();
        assert_eq!(line, format!("{}\n", claim().machine_id));
    }

    #[test]
    fn the_boot_id_is_there_once_it_was_made() {
        make_boot_id().unwrap();
    }
}
