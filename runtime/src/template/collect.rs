// SPDX-License-Identifier: Apache-2.0
//! Removing templates: what nobody used for long, and the longest unused while all take too much room.
//!
//! Never one that is in use, being made or that somebody used a moment ago: a start that found it and
//! has not locked it yet would have to make it again. Everything here can be redone by the next start,
//! so nothing that goes wrong is more than a line in the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::Serialize;

use super::list::Listed;
use super::open::Directory;
use super::store::{self, Store, StoreError};
use crate::error::chain;

/// How long after its last use a template is left alone, whatever the limits say.
const GRACE: Duration = Duration::from_secs(600);

/// When templates are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest time since the last use.
    pub age: Duration,
    /// Most bytes on the disk for all together.
    pub bytes: u64,
}

/// What a collection did, or would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The templates that went.
    pub removed: Vec<Listed>,
    /// Names of left-overs of dead processes that went.
    pub left_overs: Vec<String>,
    /// What the templates that stay take on the disk.
    pub kept_bytes: u64,
}

impl Store {
    /// Removes what the limits do not allow, and what dead processes left. With `dry_run` it is only
    /// said.
    pub fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut listed = self.list()?;
        let mut kept_bytes = listed.iter().map(|one| one.disk_bytes).sum();
        let mut collected = Collected::default();
        for one in chosen(&mut listed, self.limits(), now) {
            let removed = if dry_run {
                Ok(())
            } else {
                self.remove_unused(&one.name)
            };
            match removed {
                Ok(()) => {
                    kept_bytes -= one.disk_bytes;
                    collected.removed.push(one);
                }
                Err(error) => {
                    tracing::info!(template = one.name, error = %chain(&error), "a template is kept");
                }
            }
        }
        collected.kept_bytes = kept_bytes;
        collected.left_overs = self.clear_left_overs(dry_run)?;
        Ok(collected)
    }

    /// Removes one template. `force` removes it although sandboxes that run were restored from it:
    /// they live on, and the disk has the room back when the last of them ends.
    pub fn remove(&self, name: &str, force: bool) -> Result<(), StoreError> {
        self.inspect(name, false)?;
        if force {
            self.put_away(&self.dir().join(name))
        } else {
            self.remove_unused(name)
        }
    }

    fn remove_unused(&self, name: &str) -> Result<(), StoreError> {
        // With the build lock nobody publishes under this name meanwhile.
        let Some(_lock) = self.lock(name)? else {
            return Err(StoreError::Busy { name: name.into() });
        };
        let path = self.dir().join(name);
        let failed = |source| StoreError::Remove {
            path: path.clone(),
            source,
        };
        let Some(directory) = Directory::open(&path).map_err(failed)? else {
            return Ok(());
        };
        let alone = FlockOperation::NonBlockingLockExclusive;
        if !directory.lock(alone).map_err(failed)? {
            return Err(StoreError::InUse { name: name.into() });
        }
        self.put_away(&path)
    }

    /// Half-made templates whose builder is dead, and removed ones whose remover is.
    fn clear_left_overs(&self, dry_run: bool) -> Result<Vec<String>, StoreError> {
        let mut cleared =
            self.names(|name| name.starts_with(".new.") || name.starts_with(".gone."))?;
        cleared.retain(|left| {
            // Who builds has the lock; who removes is at it, and both of us remove the same.
            let lock = match left.strip_prefix(".new.") {
                Some(name) => match self.lock(name) {
                    Ok(Some(lock)) => Some(lock),
                    Ok(None) | Err(_) => return false,
                },
                None => None,
            };
            let gone = dry_run || store::remove(&self.dir().join(left)).is_ok();
            drop(lock);
            gone
        });
        Ok(cleared)
    }
}

/// The templates to remove, the longest unused first.
fn chosen(listed: &mut [Listed], limits: &Limits, now: Duration) -> Vec<Listed> {
    let mut bytes: u64 = listed.iter().map(|one| one.disk_bytes).sum();
    listed.sort_by_key(|one| one.used_s);
    let chosen = listed.iter().filter(|one| {
        let unused = now.saturating_sub(Duration::from_secs(one.used_s));
        let unwanted = unused > limits.age || bytes > limits.bytes;
        let remove = unwanted && unused > GRACE && !one.in_use;
        if remove {
            bytes -= one.disk_bytes;
        }
        remove
    });
    chosen.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::TemplateState;

    const DAY: u64 = 86_400;
    const NOW: u64 = 1000 * DAY;

    fn unused(name: &str, for_s: u64, in_use: bool) -> Listed {
        Listed {
            name: name.into(),
            state: TemplateState::Good,
            reason: None,
            what: None,
            vcpus: None,
            memory_mib: None,
            guest_kernel: None,
            created_s: None,
            used_s: NOW - for_s,
            disk_bytes: 100,
            in_use,
        }
    }

    fn check(mut listed: Vec<Listed>, bytes: u64, expect: &[&str]) {
        let limits = Limits {
            age: Duration::from_secs(14 * DAY),
            bytes,
        };
        let chosen = chosen(&mut listed, &limits, Duration::from_secs(NOW));
        let names: Vec<_> = chosen.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn the_old_go_and_the_young_stay() {
        let list = || {
            vec![
                unused("young", DAY, false),
                unused("old", 15 * DAY, false),
                unused("older", 16 * DAY, false),
                unused("old-in-use", 20 * DAY, true),
            ]
        };
        check(list(), 1000, &["older", "old"]);
    }

    #[test]
    fn the_longest_unused_go_until_the_rest_fits() {
        let list = || {
            vec![
                unused("a", 3 * DAY, false),
                unused("b", 5 * DAY, false),
                unused("c", 4 * DAY, true),
                unused("d", 601, false),
                unused("now", 599, false),
            ]
        };
        check(list(), 500, &[]);
        check(list(), 499, &["b"]);
        check(list(), 300, &["b", "a"]);
        check(list(), 0, &["b", "a", "d"]);
    }

    #[test]
    fn a_use_in_the_future_is_a_use_now() {
        let mut future = unused("future", 0, false);
        future.used_s = NOW + DAY;
        check(vec![future], 0, &[]);
    }
}
