// SPDX-License-Identifier: Apache-2.0
//! Watches that a client polls: their events are kept until it asks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cube_runtime::plane::Watch;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Code, EnvdError, watch};
use crate::random;

/// Watchers of one sandbox.
const MAX_WATCHERS: usize = 64;
/// Events of one that wait; older ones go.
const MAX_EVENTS: usize = 10_000;
const ID_DIGITS: usize = 16;

/// The watchers of a sandbox.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<BTreeMap<String, Watcher>>);

#[derive(Debug)]
struct Watcher {
    events: Arc<Mutex<VecDeque<Value>>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watchers {
    /// Keeps a watch's events from now on. Answers its name.
    pub fn add(&self, watch: Watch) -> Result<String, EnvdError> {
        let id = random::hex(ID_DIGITS)
            .map_err(|error| EnvdError::new(Code::Internal, error.to_string()))?;
        let mut all = self.lock();
        if all.len() >= MAX_WATCHERS {
            let words = format!("this sandbox has {MAX_WATCHERS} watchers already");
            return Err(EnvdError::new(Code::ResourceExhausted, words));
        }
        let events = Arc::<Mutex<VecDeque<Value>>>::default();
        let task = tokio::spawn(collect(watch, events.clone()));
        all.insert(id.clone(), Watcher { events, task });
        Ok(id)
    }

    /// What happened since the last time.
    pub fn events(&self, id: &str) -> Result<Vec<Value>, EnvdError> {
        let all = self.lock();
        let watcher = all.get(id).ok_or_else(|| unknown(id))?;
        let mut events = lock(&watcher.events);
        Ok(events.drain(..).collect())
    }

    /// Ends a watch.
    pub fn remove(&self, id: &str) -> Result<(), EnvdError> {
        let removed = self.lock().remove(id);
        removed.map(drop).ok_or_else(|| unknown(id))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watcher>> {
        lock(&self.0)
    }
}

async fn collect(mut watch: Watch, events: Arc<Mutex<VecDeque<Value>>>) {
    // A watch that broke tells no more, as one whose directory is gone.
    while let Ok(Some(event)) = watch.next().await {
        let mut events = lock(&events);
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.extend(watch::to_json(&event));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is whole whenever the lock is let go.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(id: &str) -> EnvdError {
    EnvdError::new(Code::NotFound, format!("watcher {id} not found"))
}
