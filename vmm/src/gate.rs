// SPDX-License-Identifier: Apache-2.0
//! What the vCPU threads are to do, and whether they do it: run, stand still, or end.
//!
//! ```text
//!            pause                stop
//!  Run  ──────────────►  Stand  ────────►  End
//!   ▲  ◄──────────────     │                ▲
//!   │       resume                          │
//!   └───────────────── stop ────────────────┘
//! ```
//!
//! The main thread turns the gate and then kicks the processors; each looks at the gate when
//! it leaves the guest. A processor that ended for a reason of its own no longer counts.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the processors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Execute the guest.
    Run,
    /// Stand still.
    Stand,
    /// Return from the thread. Final.
    End,
}

/// The gate of all processors of a machine.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// Threads that have not ended.
    alive: usize,
    /// Threads that stand still.
    standing: usize,
}

impl Gate {
    /// A gate for so many processors, which stand until it is opened.
    pub fn new(vcpus: usize) -> Self {
        Self {
            state: Mutex::new(State {
                wanted: Wanted::Stand,
                alive: vcpus,
                standing: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// What a processor should do now.
    pub fn wanted(&self) -> Wanted {
        self.lock().wanted
    }

    /// A processor stands here until something else is wanted.
    pub fn stand(&self) -> Wanted {
        let mut state = self.lock();
        state.standing += 1;
        self.changed.notify_all();
        while state.wanted == Wanted::Stand {
            state = self.wait(state);
        }
        state.standing -= 1;
        state.wanted
    }

    /// A processor's thread is about to return.
    pub fn leave(&self) {
        self.lock().alive -= 1;
        self.changed.notify_all();
    }

    /// Turns the gate; `kick` makes the processors look at it. An end is never taken back.
    pub fn turn(&self, wanted: Wanted, kick: impl FnOnce()) {
        {
            let mut state = self.lock();
            if state.wanted != Wanted::End {
                state.wanted = wanted;
            }
        }
        self.changed.notify_all();
        kick();
    }

    /// Waits until every processor that has not ended stands still.
    pub fn wait_until_all_stand(&self) {
        let mut state = self.lock();
        while state.wanted == Wanted::Stand && state.standing < state.alive {
            state = self.wait(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    /// A thread that behaves like a processor: works while it may.
    fn worker(gate: &Arc<Gate>, work: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
        let (gate, work) = (Arc::clone(gate), Arc::clone(work));
        thread::spawn(move || {
            loop {
                match gate.wanted() {
                    Wanted::Run => {
                        work.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                    }
                    Wanted::Stand => {
                        gate.stand();
                    }
                    Wanted::End => break,
                }
            }
            gate.leave();
        })
    }

    #[test]
    fn nobody_works_behind_a_closed_gate() {
        let gate = Arc::new(Gate::new(3));
        let work = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..3).map(|_| worker(&gate, &work)).collect();
        for _ in 0..20 {
            gate.turn(Wanted::Run, || {});
            thread::yield_now();
            gate.turn(Wanted::Stand, || {});
            gate.wait_until_all_stand();
            let before = work.load(Ordering::SeqCst);
            thread::yield_now();
            assert_eq!(work.load(Ordering::SeqCst), before);
        }
        gate.turn(Wanted::End, || {});
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
    }

    #[test]
    fn processors_that_ended_are_not_waited_for() {
        let gate = Gate::new(1);
        gate.leave();
        gate.turn(Wanted::Stand, || {});
        gate.wait_until_all_stand();
    }

    #[test]
    fn an_end_is_final() {
        let gate = Gate::new(0);
        gate.turn(Wanted::End, || {});
        gate.turn(Wanted::Run, || {});
        assert_eq!(gate.wanted(), Wanted::End);
    }
}
