// SPDX-License-Identifier: Apache-2.0
//! Does a containerd answer, and which?
//!
//! Its API is gRPC, which this program does not speak. It need not: the kernel names the process behind
//! the socket, and that process's own binary tells its version.

use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::socket::{getsockopt, sockopt};

use super::Verdict;

/// Where containerd listens unless it is told otherwise.
const DEFAULT_ADDRESS: &str = "/run/containerd/containerd.sock";

/// The oldest version that Cube is tested with.
const OLDEST: (u32, u32) = (1, 6);

pub(super) fn check() -> Verdict {
    let address = std::env::var_os("CONTAINERD_ADDRESS").filter(|address| !address.is_empty());
    let address = PathBuf::from(address.unwrap_or_else(|| OsString::from(DEFAULT_ADDRESS)));
    let place = address.display().to_string();
    match UnixStream::connect(&address) {
        Ok(socket) => judge_version(&place, version_behind(&socket).as_deref()),
        Err(error) => judge_absence(&place, &error),
    }
}

fn judge_absence(place: &str, error: &io::Error) -> Verdict {
    let found = format!("no containerd answers at {place}: {error}");
    let mend = match error.kind() {
        io::ErrorKind::NotFound => {
            "apt install containerd, or set CONTAINERD_ADDRESS to its socket"
        }
        io::ErrorKind::PermissionDenied => "run as root",
        _ => "systemctl start containerd",
    };
    Verdict::warning(found, mend)
}

fn judge_version(place: &str, version: Option<&str>) -> Verdict {
    let Some(version) = version else {
        return Verdict::good(format!("something answers at {place}, of unknown version"));
    };
    let found = format!("containerd {version} at {place}");
    match series(version) {
        Some(series) if series < OLDEST => Verdict::warning(
            found,
            "upgrade: Cube is tested with containerd 1.6, 1.7 and 2.x",
        ),
        _ => Verdict::good(found),
    }
}

/// Asks the binary of the process that listens on the other side.
fn version_behind(socket: &UnixStream) -> Option<String> {
    let peer = getsockopt(socket, sockopt::PeerCredentials).ok()?;
    let binary = std::fs::read_link(format!("/proc/{}/exe", peer.pid())).ok()?;
    // With socket activation it is systemd that listens.
    if !binary.file_name()?.to_str()?.starts_with("containerd") {
        return None;
    }
    let output = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    parse_version(&text)
}

/// `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1`, or with `v1.7.24`.
fn parse_version(text: &str) -> Option<String> {
    let version = text.split_ascii_whitespace().nth(2)?;
    let version = version.trim_start_matches('v');
    series(version).map(|_| version.to_owned())
}

fn series(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn versions_are_read_as_the_daemons_print_them() {
        let check = |text, expect: Option<&str>| {
            assert_eq!(parse_version(text).as_deref(), expect, "{text}");
        };
        check(
            "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1",
            Some("1.6.20~ds1"),
        );
        check("containerd containerd.io v2.1.9 fb4c30d4ede", Some("2.1.9"));
        check("containerd", None);
        check("a b c", None);
    }

    #[test]
    fn only_versions_that_are_too_old_are_warned_of() {
        let check = |version, expect| {
            assert_eq!(judge_version("/s", version).status, expect, "{version:?}");
        };
        check(Some("1.5.9"), Status::Warning);
        check(Some("1.6.20~ds1"), Status::Good);
        check(Some("2.3.4"), Status::Good);
        check(None, Status::Good);
    }

    #[test]
    fn a_containerd_that_is_not_there_is_no_reason_to_fail() {
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused] {
            let verdict = judge_absence("/s", &kind.into());
            assert_eq!(verdict.status, Status::Warning);
        }
    }
}
