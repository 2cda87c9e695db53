// SPDX-License-Identifier: Apache-2.0
//! What is known of a sandbox, as it is kept in the record of its container.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::moment::Moment;

/// The name of the extension of containerd's record. A change that an older program would misread gets another.
pub const EXTENSION: &str = "io.cube.e2b.sandbox.v1";

/// Who a sandbox is, to whom, and how long it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxRecord {
    /// Whose it is.
    pub team: String,
    /// What its maker asked for.
    pub template: String,
    /// The name of the template, if it has one besides its image's.
    pub alias: Option<String>,
    /// The client's own words about it.
    pub metadata: BTreeMap<String, String>,
    /// Environment of all its processes, as asked for.
    pub env: BTreeMap<String, String>,
    /// When it was asked for.
    pub created: Moment,
    /// Since when it can be used; none: it never could.
    pub started: Option<Moment>,
    /// When it is removed.
    pub end: Moment,
    /// What its agent's door wants to see.
    pub access_token: String,
    /// What its other ports want to see, if anything.
    pub traffic_token: Option<String>,
    /// `Host` of requests to its ports, with `${PORT}` for the port; none: as they come.
    pub mask_request_host: Option<String>,
    /// What was asked for about its network.
    pub network: Option<Value>,
    /// Whether it was to reach the internet; none: nothing was said.
    pub allow_internet_access: Option<bool>,
    /// What tells a repeated request from another one.
    pub idempotency_key: Option<String>,
    /// Its size, once it is known.
    pub size: Size,
}

/// How large a sandbox's machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Processors.
    pub cpu_count: u32,
    /// MiB.
    pub memory_mib: u64,
    /// MiB.
    pub disk_mib: u64,
}

impl SandboxRecord {
    /// As it is kept.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps by strings have a JSON form")
    }

    /// From what was kept.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// It can be used from now on, and its time begins.
    pub fn begin(&mut self, now: Moment, timeout: Duration) {
        self.started = Some(now);
        self.end = now.after(timeout);
    }

    /// It ends this long after now, whatever was said before.
    pub fn end_after(&mut self, now: Moment, timeout: Duration) {
        self.end = now.after(timeout);
    }

    /// It lives this long from now on at least.
    pub fn extend(&mut self, now: Moment, timeout: Duration) {
        self.end = self.end.max(now.after(timeout));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again() {
        let mut record = SandboxRecord {
            team: "blue".into(),
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            traffic_token: Some("t".into()),
            ..SandboxRecord::default()
        };
        record.begin(Moment(5), Duration::from_secs(300));
        let read = SandboxRecord::from_json(&record.to_json()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.end, Moment(300_005));
    }

    #[test]
    fn fields_that_an_older_program_did_not_write_are_filled() {
        let read = SandboxRecord::from_json(br#"{"team":"blue","later":1}"#).unwrap();
        assert_eq!(read.team, "blue");
    }

    #[test]
    fn an_extension_never_shortens() {
        let mut record = SandboxRecord {
            end: Moment(10_000),
            ..SandboxRecord::default()
        };
        record.extend(Moment(1000), Duration::from_secs(5));
        assert_eq!(record.end, Moment(10_000));
        record.extend(Moment(1000), Duration::from_secs(10));
        assert_eq!(record.end, Moment(11_000));
        record.end_after(Moment(1000), Duration::ZERO);
        assert_eq!(record.end, Moment(1000));
    }
}
