// SPDX-License-Identifier: Apache-2.0
//! The containers of this machine, by name. What a call means is here; [`crate::service`] only translates
//! messages, [`crate::container`] does the work.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cube_protocol::StreamHello;

use crate::cause::Cause;
use crate::container::{
    self, Command, Container, Disk, FirstProcess, HostFile, Layout, Lender, Parts, SharedMemory,
};
use crate::error::AgentError;
use crate::guest::{Claim, Machine};
use crate::network::{self, Network, Relay};
use crate::phase::Phase;
use crate::plane::Plane;
use crate::ports::Ports;
use crate::process::{Connection, Process, Reaper, Wanted};
use crate::stage::ProcessPlan;

/// Longest id: that of the stream hello.
const MAX_ID_LEN: usize = cube_protocol::MAX_ID_LEN;

/// The agent's whole state.
pub struct Agent {
    layout: Layout,
    machine: Machine,
    reaper: Arc<Reaper>,
    containers: Mutex<HashMap<String, Entry>>,
    /// Name of the first container, whose namespaces the others of a pod may share.
    pod: Mutex<Option<String>>,
    shared_memory: SharedMemory,
    ports: Ports,
    /// Of the machine's interfaces.
    addresses: Mutex<Vec<IpAddr>>,
    names: Arc<Relay>,
    plane: Plane,
    phase: Mutex<Phase>,
    greeted_at: Mutex<Option<Instant>>,
}

enum Entry {
    /// The name is taken, the container not there yet.
    Reserved,
    Live(Arc<Container>),
    /// On its way out; nothing more can be done with it.
    Leaving(Arc<Container>),
}

impl Agent {
    /// Without containers.
    pub fn new(layout: Layout, machine: Machine, reaper: Arc<Reaper>) -> Self {
        Self {
            layout,
            machine,
            reaper,
            containers: Mutex::default(),
            pod: Mutex::default(),
            shared_memory: SharedMemory::default(),
            ports: Ports::default(),
            addresses: Mutex::default(),
            names: Arc::default(),
            plane: Plane::default(),
            phase: Mutex::new(Phase::Unclaimed),
            greeted_at: Mutex::default(),
        }
    }

    /// Remembers when the host asked who is there: the way of its next call is measured from here.
    pub fn greet(&self) {
        *self.greeted_at() = Some(Instant::now());
    }

    /// Gives the machine its identity, while nothing runs that relies on another one. A claim that failed
    /// leaves the machine unclaimed.
    pub fn claim(&self, claim: &Claim) -> Result<(), AgentError> {
        // Held until it is done, so that of two claims one is refused.
        let mut phase = self.phase();
        let claimed = phase.claimed()?;
        let greeted_at = *self.greeted_at();
        self.machine
            .claim(claim, greeted_at, &self.layout.machine_id())?;
        *phase = claimed;
        Ok(())
    }

    /// A restored machine has the random numbers, the clock and the name of its template until its claim:
    /// nothing of a user's runs, and nothing is written to a user's disk.
    fn check_running(&self) -> Result<(), AgentError> {
        self.phase().check_running()
    }

    /// Writes file systems back, then stops every process: the machine can be saved. It has no identity from
    /// then on. After a failure it is as it was.
    pub async fn quiesce(&self) -> Result<(), AgentError> {
        // Before anything stops, so that writing back, which may take long, is no standstill.
        for container in self.live()? {
            container.sync().await?;
        }
        let containers = self.stop_making()?;
        for container in &containers {
            if let Err(error) = container.stand(true).await {
                self.go_on(&containers).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// From here on no container and no process is made; those that are being made are in the way.
    fn stop_making(&self) -> Result<Vec<Arc<Container>>, AgentError> {
        let mut phase = self.phase();
        phase.check_running()?;
        let containers = self.live()?;
        *phase = Phase::Quiesced;
        Ok(containers)
    }

    /// Takes a container over under another name, in a machine that was restored; tells how its first process was
    /// made.
    pub fn adopt_container(&self, id: &str, new_id: &str) -> Result<FirstProcess, AgentError> {
        self.phase().check_reclaimed()?;
        check_id("new_container_id", new_id)?;
        let container = self.container(id)?;
        let first = container.adopt()?;
        if id != new_id {
            let mut containers = self.containers();
            if containers.contains_key(new_id) {
                return Err(AgentError::ContainerExists {
                    id: new_id.to_owned(),
                });
            }
            containers.remove(id);
            containers.insert(new_id.to_owned(), Entry::Live(container));
        }
        if self.pod().as_deref() == Some(id) {
            *self.pod() = Some(new_id.to_owned());
        }
        Ok(first)
    }

    /// Lets the processes go on.
    pub async fn thaw(&self) -> Result<(), AgentError> {
        self.phase().check_reclaimed()?;
        let containers = self.live()?;
        self.go_on(&containers).await;
        Ok(())
    }

    async fn go_on(&self, containers: &[Arc<Container>]) {
        for container in containers {
            if let Err(error) = container.stand(false).await {
                let error = crate::cause::chain(&error);
                tracing::error!(%error, "a container stands still");
            }
        }
        *self.phase() = Phase::Running;
    }

    /// All containers, none of which may be on its way in or out.
    fn live(&self) -> Result<Vec<Arc<Container>>, AgentError> {
        let containers = self.containers();
        let live = containers.iter().map(|(id, entry)| match entry {
            Entry::Live(container) => Ok(Arc::clone(container)),
            Entry::Reserved => Err(container_state(id, "is being created")),
            Entry::Leaving(_) => Err(container_state(id, "is being deleted")),
        });
        live.collect()
    }

    /// Makes a container.
    pub async fn create_container(
        &self,
        id: &str,
        spec_json: &[u8],
        disk: Disk,
        files: &[HostFile],
    ) -> Result<(), AgentError> {
        self.check_running()?;
        check_id("container_id", id)?;
        let parts = Parts::of(spec_json, id, &self.layout, files)?;
        let reservation = self.reserve(id)?;
        let lender = Lender {
            files,
            shared_memory: &self.shared_memory,
        };
        let container = Container::create(id, parts, &self.layout, disk, lender).await?;
        reservation.fill(container);
        self.pod().get_or_insert_with(|| id.to_owned());
        Ok(())
    }

    /// Takes a container down. One that is not known is gone already.
    pub async fn delete_container(&self, id: &str) -> Result<(), AgentError> {
        let container = {
            let mut containers = self.containers();
            let container = match containers.get(id) {
                None => return Ok(()),
                Some(Entry::Live(container)) => Arc::clone(container),
                Some(Entry::Reserved) => return Err(container_state(id, "is being created")),
                Some(Entry::Leaving(_)) => return Err(container_state(id, "is being deleted")),
            };
            containers.insert(id.to_owned(), Entry::Leaving(Arc::clone(&container)));
            container
        };
        let result = container.delete().await;
        let mut containers = self.containers();
        match result {
            Ok(()) => {
                containers.remove(id);
                self.pod().take_if(|pod| pod == id);
                Ok(())
            }
            // Still there: it can be tried again.
            Err(error) => {
                containers.insert(id.to_owned(), Entry::Live(container));
                Err(error)
            }
        }
    }

    /// Sets a process up; gives its number.
    pub async fn create_process(
        &self,
        container: &str,
        command: Command<'_>,
    ) -> Result<u32, AgentError> {
        self.check_running()?;
        if !command.exec_id.is_empty() {
            check_id("exec_id", command.exec_id)?;
        }
        let pod = self.pod().clone().filter(|pod| pod != container);
        let pod = pod.and_then(|pod| self.container(&pod).ok()?.pidfd());
        self.container(container)?
            .create_process(&self.reaper, &self.layout, pod, command)
            .await
    }

    /// Sets a process up that whoever asks keeps.
    pub async fn create_job_process(
        &self,
        container: &Container,
        plan: ProcessPlan,
        terminal: bool,
        wanted: Wanted,
    ) -> Result<Process, AgentError> {
        self.check_running()?;
        container
            .create_job_process(&self.reaper, &self.layout, plan, terminal, wanted)
            .await
    }

    /// What the plane has of its own.
    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Makes the machine's network this one.
    pub async fn configure_network(&self, network: Network) -> Result<(), AgentError> {
        self.phase().check_claimed()?;
        let addresses = network.addresses();
        let relays_names = network.dns_relay;
        let done = tokio::task::spawn_blocking(move || network::configure(&network)).await;
        done.map_err(|_| AgentError::Broken)??;
        *self.addresses() = addresses;
        if relays_names {
            Arc::clone(&self.names).listen(network::RELAY).await?;
        }
        Ok(())
    }

    /// Has the host at the other end of a connection answer the machine's names, until it breaks.
    pub async fn relay_names(&self, host: impl Connection) {
        self.names.serve(host).await;
    }

    /// Joins a connection with the TCP port that it names.
    pub async fn join_port(&self, host: impl Connection) -> Result<(), Cause> {
        let addresses = self.addresses().clone();
        self.ports.join(host, &addresses).await
    }

    /// Sets a container up and takes it down, where there is none yet.
    pub async fn rehearse(&self) -> Result<(), AgentError> {
        self.check_running()?;
        if let Some(id) = self.containers().keys().next() {
            return Err(container_state(id, "is in the way of a rehearsal"));
        }
        container::rehearse(&self.reaper, &self.layout).await
    }

    /// A container by name.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, AgentError> {
        match self.containers().get(id) {
            Some(Entry::Live(container)) => Ok(Arc::clone(container)),
            Some(Entry::Reserved) => Err(container_state(id, "is being created")),
            Some(Entry::Leaving(_)) => Err(container_state(id, "is being deleted")),
            None => Err(AgentError::NoContainer { id: id.to_owned() }),
        }
    }

    /// A process by name. One of a container on its way out can still be waited for.
    pub fn process(&self, container: &str, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        let container = match self.containers().get(container) {
            Some(Entry::Live(container) | Entry::Leaving(container)) => Arc::clone(container),
            Some(Entry::Reserved) => return Err(container_state(container, "is being created")),
            None => {
                return Err(AgentError::NoContainer {
                    id: container.to_owned(),
                });
            }
        };
        container.process(exec_id)
    }

    /// The process that a stream connection names.
    pub fn process_of(&self, hello: &StreamHello) -> Result<Arc<Process>, AgentError> {
        self.process(&hello.container_id, &hello.exec_id)
    }

    /// Forgets an ended process.
    pub fn delete_process(&self, container: &str, exec_id: &str) -> Result<(), AgentError> {
        match self.container(container) {
            Err(AgentError::NoContainer { .. }) => Ok(()),
            other => other?.delete_process(exec_id),
        }
    }

    /// Takes every container down, as far as that goes: what they wrote is on their disks then.
    pub async fn delete_all(&self) {
        let ids: Vec<String> = self.containers().keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.delete_container(&id).await {
                let error = crate::cause::chain(&error);
                tracing::warn!(container = %id, %error, "not deleted before the end");
            }
        }
    }

    /// The end of the machine.
    pub fn power_off(&self) {
        self.machine.power_off();
    }

    fn reserve(&self, id: &str) -> Result<Reservation<'_>, AgentError> {
        let mut containers = self.containers();
        if containers.contains_key(id) {
            return Err(AgentError::ContainerExists { id: id.to_owned() });
        }
        containers.insert(id.to_owned(), Entry::Reserved);
        Ok(Reservation {
            agent: self,
            id: id.to_owned(),
            is_filled: false,
        })
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn greeted_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.greeted_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn pod(&self) -> MutexGuard<'_, Option<String>> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name in the list of containers; free again unless it is filled.
struct Reservation<'a> {
    agent: &'a Agent,
    id: String,
    is_filled: bool,
}

impl Reservation<'_> {
    fn fill(mut self, container: Container) {
        self.is_filled = true;
        let entry = Entry::Live(Arc::new(container));
        self.agent.containers().insert(self.id.clone(), entry);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            self.agent.containers().remove(&self.id);
        }
    }
}

fn container_state(id: &str, state: &'static str) -> AgentError {
    AgentError::ContainerState {
        id: id.to_owned(),
        state,
    }
}

/// Ids become names of directories and cgroups.
fn check_id(field: &'static str, id: &str) -> Result<(), AgentError> {
    let is_name = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
    // A cgroup of that name would hide a control file.
    let is_safe = !id.starts_with('.') && !id.starts_with("cgroup.");
    if !id.is_empty() && id.len() <= MAX_ID_LEN && is_name && is_safe {
        Ok(())
    } else {
        Err(AgentError::Request {
            field,
            reason: format!("{id:?} is not an id"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_names() {
        for id in ["a", "web-1", "A.b_c+d", &"x".repeat(255)] {
            assert!(check_id("id", id).is_ok(), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "cgroup.procs",
            &"x".repeat(256),
        ] {
            assert!(check_id("id", id).is_err(), "{id}");
        }
    }
}
