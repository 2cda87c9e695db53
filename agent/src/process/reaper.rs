// SPDX-License-Identifier: Apache-2.0
//! The one place that waits for children. As PID 1 the agent is also given every orphan of the machine,
//! which is buried without a word.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{SignalKind, signal};

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Death {
    /// 0 to 255, or 128 plus the number of the signal that killed it.
    pub status: u32,
    /// The signal that killed it; 0: none, it exited.
    pub signal: u32,
    /// When it was found dead.
    pub at: SystemTime,
}

type OnDeath = Box<dyn FnOnce(Death) + Send>;

/// Knows which children somebody is interested in.
pub struct Reaper {
    children: Mutex<HashMap<Pid, OnDeath>>,
}

impl Reaper {
    /// Starts waiting; call once, inside the event loop.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self {
            children: Mutex::default(),
        });
        let mut child_signals = signal(SignalKind::child())?;
        let this = Arc::clone(&reaper);
        tokio::spawn(async move {
            // Signals of several children may arrive as one.
            while child_signals.recv().await.is_some() {
                this.bury();
            }
        });
        Ok(reaper)
    }

    /// Starts a child by `spawn` and calls `on_death` once it is dead, however soon that is. From then on
    /// its number may belong to another process.
    pub fn spawn<E>(
        &self,
        spawn: impl FnOnce() -> Result<Pid, E>,
        on_death: impl FnOnce(Death) + Send + 'static,
    ) -> Result<Pid, E> {
        // Held across the birth, so that nobody buries the child before it is known.
        let mut children = self.lock();
        let pid = spawn()?;
        children.insert(pid, Box::new(on_death));
        Ok(pid)
    }

    fn bury(&self) {
        loop {
            let mut children = self.lock();
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let on_death = children.remove(&pid);
                    drop(children);
                    if let Some(on_death) = on_death {
                        on_death(Death::from(status));
                    }
                }
                Ok(None) | Err(Errno::CHILD) => return,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "cannot wait for children");
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, OnDeath>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<WaitStatus> for Death {
    fn from(status: WaitStatus) -> Self {
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            // Stops and continuations are not asked for.
            (None, None) => 255,
        };
        let signal = status.terminating_signal().unwrap_or(0);
        Self {
            status: u32::try_from(code).unwrap_or(255),
            signal: u32::try_from(signal).unwrap_or(0),
            at: SystemTime::now(),
        }
    }
}
