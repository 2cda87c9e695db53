// SPDX-License-Identifier: Apache-2.0
//! Points in time as the wire and the records have them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_containerd::rfc3339;
use serde::{Deserialize, Serialize};

/// Milliseconds since the epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Moment(pub u64);

impl Moment {
    /// The host's wall clock.
    pub fn now() -> Self {
        // A clock before 1970 is one that nobody has set: everything is due then.
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::from_epoch(since.unwrap_or_default())
    }

    /// This long after the epoch.
    pub fn from_epoch(since: Duration) -> Self {
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads RFC 3339 in UTC.
    pub fn parse(text: &str) -> Option<Self> {
        rfc3339::parse(text).map(Self::from_epoch)
    }

    /// Whole seconds since the epoch.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// As RFC 3339, with milliseconds.
    pub fn rfc3339(self) -> String {
        let whole = rfc3339::format(Duration::from_secs(self.seconds()));
        format!("{}.{:03}Z", whole.trim_end_matches('Z'), self.0 % 1000)
    }

    /// This much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_epoch(time).0))
    }

    /// How long until then; nothing if it is over.
    pub fn until(self, then: Self) -> Duration {
        Duration::from_millis(then.0.saturating_sub(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let moment = Moment(1_798_761_599_007);
        assert_eq!(moment.rfc3339(), "2026-12-31T23:59:59.007Z");
        assert_eq!(Moment::parse(&moment.rfc3339()), Some(moment));
        assert_eq!(Moment::parse("yesterday"), None);
    }

    #[test]
    fn what_is_over_is_not_waited_for() {
        let (early, late) = (Moment(1000), Moment(3500));
        assert_eq!(early.until(late), Duration::from_millis(2500));
        assert_eq!(late.until(early), Duration::ZERO);
        assert_eq!(early.after(Duration::from_millis(2500)), late);
    }
}
