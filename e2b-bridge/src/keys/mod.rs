// SPDX-License-Identifier: Apache-2.0
//! API keys: whose they are and what they allow. Only their hashes are kept.
//!
//! The file is written by `cube-e2b key` and read again by a running server as soon as it changes. A key
//! has 160 random bits, so that a plain SHA-256 of it cannot be turned back.

mod file;
mod limit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub use file::{KeyEntry, KeyFile, KeysError};
use limit::Bucket;

use crate::error::ApiError;

/// The keys of a running server.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    version: Option<file::Version>,
    entries: Vec<KeyEntry>,
    /// By the ids of keys.
    buckets: BTreeMap<String, Bucket>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The team, whose sandboxes these are.
    pub team: String,
    /// How many of them there may be at a time.
    pub max_sandboxes: usize,
}

impl Keys {
    /// The keys of a file; a file that is not there has none.
    pub fn open(path: PathBuf) -> Result<Self, KeysError> {
        let keys = Self {
            path,
            state: Mutex::default(),
        };
        keys.refresh(&mut keys.lock())?;
        Ok(keys)
    }

    /// Who has this key, unless they ask too often.
    pub fn check(&self, key: &str, now: Instant) -> Result<Caller, ApiError> {
        let mut state = self.lock();
        self.refresh(&mut state).map_err(ApiError::Keys)?;
        let hash = file::hash(key);
        let State {
            entries, buckets, ..
        } = &mut *state;
        let entry = entries.iter().find(|entry| entry.hash == hash);
        let entry = entry.ok_or(ApiError::WrongKey)?;
        let limit = entry.requests_per_second;
        let bucket = buckets
            .entry(entry.id.clone())
            .or_insert_with(|| Bucket::full(limit, now));
        if !bucket.take(limit, now) {
            return Err(ApiError::TooManyRequests { limit });
        }
        Ok(Caller {
            team: entry.team.clone(),
            max_sandboxes: entry.max_sandboxes,
        })
    }

    fn refresh(&self, state: &mut State) -> Result<(), KeysError> {
        let version = file::version(&self.path)?;
        if state.version != Some(version) {
            state.entries = KeyFile::read(&self.path)?.keys;
            let entries = &state.entries;
            let is_known = |id: &String| entries.iter().any(|entry| entry.id == *id);
            state.buckets.retain(|id, _| is_known(id));
            state.version = Some(version);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Whoever panicked had only read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_counts_at_once_and_a_removed_one_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let keys = Keys::open(path.clone()).unwrap();
        let now = Instant::now();
        assert!(matches!(keys.check("e2b_00", now), Err(ApiError::WrongKey)));

        let mut file = KeyFile::default();
        let (id, key) = file.add("laptop", "blue", 2, 5).unwrap();
        file.write(&path).unwrap();
        let caller = keys.check(&key, now).unwrap();
        assert_eq!((&*caller.team, caller.max_sandboxes), ("blue", 2));

        assert!(file.remove(&id));
        file.write(&path).unwrap();
        assert!(matches!(keys.check(&key, now), Err(ApiError::WrongKey)));
    }

    #[test]
    fn each_key_has_its_own_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let mut file = KeyFile::default();
        let (_, one) = file.add("a", "blue", 1, 1).unwrap();
        let (_, other) = file.add("b", "blue", 1, 1).unwrap();
        file.write(&path).unwrap();
        let keys = Keys::open(path).unwrap();
        let now = Instant::now();
        for _ in 0..limit::BURST_S {
            keys.check(&one, now).unwrap();
        }
        let error = keys.check(&one, now).unwrap_err();
        assert!(matches!(error, ApiError::TooManyRequests { limit: 1 }));
        keys.check(&other, now).unwrap();
    }
}
