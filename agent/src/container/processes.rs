// SPDX-License-Identifier: Apache-2.0
//! The processes of one container, by name. The first one's name is empty.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::AgentError;
use crate::process::Process;

/// All of them.
pub struct Processes {
    /// Of the container, for messages.
    container: String,
    slots: Mutex<HashMap<String, Slot>>,
}

enum Slot {
    /// The name is taken, the process not there yet.
    Reserved,
    Taken(Arc<Process>),
}

impl Processes {
    /// None yet.
    pub fn of(container: &str) -> Self {
        Self {
            container: container.to_owned(),
            slots: Mutex::default(),
        }
    }

    /// Takes a name for a process that is about to be made.
    pub fn reserve(&self, exec_id: &str) -> Result<Reservation<'_>, AgentError> {
        let mut slots = self.lock();
        if slots.contains_key(exec_id) {
            return Err(AgentError::ProcessExists {
                container: self.container.clone(),
                exec_id: exec_id.to_owned(),
            });
        }
        slots.insert(exec_id.to_owned(), Slot::Reserved);
        Ok(Reservation {
            processes: self,
            exec_id: exec_id.to_owned(),
            is_filled: false,
        })
    }

    /// One that exists.
    pub fn get(&self, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        match self.lock().get(exec_id) {
            Some(Slot::Taken(process)) => Ok(Arc::clone(process)),
            Some(Slot::Reserved) | None => Err(AgentError::NoProcess {
                container: self.container.clone(),
                exec_id: exec_id.to_owned(),
            }),
        }
    }

    /// The name of the living process of a number.
    pub fn name_of(&self, pid: u32) -> Option<String> {
        let is_it =
            |slot: &Slot| matches!(slot, Slot::Taken(p) if p.pid() == pid && !p.has_ended());
        let slots = self.lock();
        let found = slots.iter().find(|(_, slot)| is_it(slot));
        found.map(|(exec_id, _)| exec_id.clone())
    }

    /// Every one that exists.
    pub fn all(&self) -> Vec<Arc<Process>> {
        let slots = self.lock();
        let taken = slots.values().filter_map(|slot| match slot {
            Slot::Taken(process) => Some(Arc::clone(process)),
            Slot::Reserved => None,
        });
        taken.collect()
    }

    /// Forgets an ended one; an unknown one is forgotten already.
    pub fn delete(&self, exec_id: &str) -> Result<(), AgentError> {
        let mut slots = self.lock();
        match slots.get(exec_id) {
            None => Ok(()),
            Some(Slot::Taken(process)) if process.has_ended() => {
                process.streams().close();
                slots.remove(exec_id);
                Ok(())
            }
            Some(_) => Err(AgentError::ProcessState {
                container: self.container.clone(),
                exec_id: exec_id.to_owned(),
                state: "is running",
            }),
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name; free again unless it is filled.
pub struct Reservation<'a> {
    processes: &'a Processes,
    exec_id: String,
    is_filled: bool,
}

impl Reservation<'_> {
    /// The process of that name is there.
    pub fn fill(mut self, process: Process) {
        self.is_filled = true;
        let slot = Slot::Taken(Arc::new(process));
        self.processes.lock().insert(self.exec_id.clone(), slot);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            self.processes.lock().remove(&self.exec_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_until_its_reservation_is_given_up() {
        let processes = Processes::of("c");
        let reservation = processes.reserve("e").unwrap();
        assert!(matches!(
            processes.reserve("e"),
            Err(AgentError::ProcessExists { .. })
        ));
        // Not there yet, so it can be neither found nor forgotten.
        assert!(matches!(
            processes.get("e"),
            Err(AgentError::NoProcess { .. })
        ));
        assert!(processes.delete("e").is_err());
        drop(reservation);
        assert!(processes.delete("e").is_ok());
        assert!(processes.reserve("e").is_ok());
    }
}
