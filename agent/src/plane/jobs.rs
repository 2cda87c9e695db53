// SPDX-License-Identifier: Apache-2.0
//! The jobs of one container: those that run, and for a while those that have ended, so that whoever was away
//! when one ended can still be told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::job_ref;

use super::fault::PlaneFault;
use super::job::Job;

/// Most that run at once.
const MAX_RUNNING: usize = 1024;

/// Most that are known after their end; the oldest goes first.
const MAX_ENDED: usize = 4096;

/// How long one is known after its end.
pub const KEPT: Duration = Duration::from_secs(60);

/// All of them, in the order of their starts.
#[derive(Debug, Default)]
pub struct Jobs(Mutex<Vec<Arc<Job>>>);

impl Jobs {
    /// Whether one more may be started.
    pub fn check_room(&self) -> Result<(), PlaneFault> {
        let running = self.lock().iter().filter(|job| !job.has_ended()).count();
        if running < MAX_RUNNING {
            return Ok(());
        }
        Err(PlaneFault::TooMany {
            what: "processes at once",
            most: MAX_RUNNING,
        })
    }

    /// Knows one from now on.
    pub fn add(&self, job: Arc<Job>) {
        let mut jobs = self.lock();
        let ended = jobs.iter().filter(|job| job.has_ended()).count();
        if ended >= MAX_ENDED
            && let Some(oldest) = jobs.iter().position(|job| job.has_ended())
        {
            jobs.remove(oldest);
        }
        jobs.push(job);
    }

    /// Forgets one.
    pub fn forget(&self, job: &Arc<Job>) {
        self.lock().retain(|one| !Arc::ptr_eq(one, job));
    }

    /// The one that is meant: of several the one that runs, of those the youngest. A number may have been
    /// that of another process before.
    pub fn find(&self, wanted: &wire::JobRef) -> Result<Arc<Job>, PlaneFault> {
        let is_it = |job: &&Arc<Job>| match &wanted.job {
            Some(job_ref::Job::Pid(pid)) => job.pid == *pid,
            Some(job_ref::Job::Tag(tag)) => !tag.is_empty() && job.tag == *tag,
            _ => false,
        };
        let jobs = self.lock();
        let mut found = jobs.iter().rev().filter(is_it);
        let youngest = found.clone().next();
        let running = found.find(|job| !job.has_ended());
        let job = running.or(youngest).cloned();
        job.ok_or_else(|| PlaneFault::NoJob {
            job: match &wanted.job {
                Some(job_ref::Job::Pid(pid)) => pid.to_string(),
                Some(job_ref::Job::Tag(tag)) => format!("with tag {tag:?}"),
                _ => "without a name".to_owned(),
            },
        })
    }

    /// Those that run.
    pub fn running(&self) -> Vec<Arc<Job>> {
        let jobs = self.lock();
        jobs.iter()
            .filter(|job| !job.has_ended())
            .cloned()
            .collect()
    }

    /// Waits until none runs, and forgets all. They have been killed.
    pub async fn end(&self) {
        for job in self.running() {
            job.wait().await;
        }
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
