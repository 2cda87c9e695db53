// SPDX-License-Identifier: Apache-2.0
//! What this host can and cannot do, and how to mend what it cannot.
//!
//! Each check looks at one thing and says what it found; a check never changes the host (the one for
//! reflinks makes two empty files and removes them). Looking and judging are apart: what was seen goes
//! into a pure function, which the tests know by heart. Printing is the `cube` command's.

mod containerd;
mod host;
mod kvm;
mod storage;

use serde::Serialize;

use crate::config::Config;

/// Everything that can be checked, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Whether this is root.
    Root,
    /// Whether `/dev/kvm` is there, may be used, and is fast enough to be of use.
    Kvm,
    /// Whether cgroup v2 is mounted.
    Cgroup,
    /// Whether files can be cloned where snapshots are kept.
    Reflink,
    /// Whether a containerd answers, and which.
    Containerd,
    /// Whether network interfaces can be made for guests.
    Tun,
    /// Whether there is room for images and snapshots.
    Space,
    /// Whether the guest image is there and whole.
    Image,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Good,
    /// Containers run, but something is missing or slow.
    Warning,
    /// No container can run.
    Bad,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// How it ended.
    pub status: Status,
    /// What was found, in one line.
    pub found: String,
    /// What to do about it, in one line; nothing if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// A finding without the name of its check.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    status: Status,
    found: String,
    mend: Option<String>,
}

/// Runs the checks, each on its own: one that fails does not stop the next.
pub fn examine(config: &Config, checks: &[Check]) -> Vec<Finding> {
    checks
        .iter()
        .map(|check| {
            let verdict = match check {
                Check::Root => host::root(),
                Check::Kvm => kvm::check(),
                Check::Cgroup => host::cgroup(),
                Check::Reflink => storage::reflink(),
                Check::Containerd => containerd::check(),
                Check::Tun => host::tun(),
                Check::Space => storage::space(),
                Check::Image => host::image(config),
            };
            Finding {
                check: *check,
                status: verdict.status,
                found: verdict.found,
                mend: verdict.mend,
            }
        })
        .collect()
}

impl Check {
    /// All of them.
    pub const ALL: [Check; 8] = [
        Check::Root,
        Check::Kvm,
        Check::Cgroup,
        Check::Reflink,
        Check::Containerd,
        Check::Tun,
        Check::Space,
        Check::Image,
    ];

    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Check::Root => "root",
            Check::Kvm => "kvm",
            Check::Cgroup => "cgroup",
            Check::Reflink => "reflink",
            Check::Containerd => "containerd",
            Check::Tun => "tun",
            Check::Space => "space",
            Check::Image => "image",
        }
    }
}

impl Verdict {
    fn good(found: impl Into<String>) -> Self {
        Self {
            status: Status::Good,
            found: found.into(),
            mend: None,
        }
    }

    fn warning(found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            status: Status::Warning,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }

    fn bad(found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            status: Status::Bad,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_says_something_and_bad_ones_how_to_mend_it() {
        let findings = examine(&Config::default(), &Check::ALL);
        assert_eq!(findings.len(), Check::ALL.len());
        for finding in findings {
            assert!(!finding.found.is_empty());
            assert!(!finding.found.contains('\n'), "{finding:?}");
            assert_eq!(finding.mend.is_none(), finding.status == Status::Good);
        }
    }
}
