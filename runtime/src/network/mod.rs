// SPDX-License-Identifier: Apache-2.0
//! The network of one sandbox: from what a client left in its namespace to the guest's interfaces.
//!
//! ```text
//! Create: the VMM enters the namespace, or makes its own; its network devices are stubs
//!         (here clients furnish the namespace: hooks, `ctr --cni`, dockerd)
//! Start:  scan -> taps -> table -> devices -> guest -> watch
//!         with a policy: names, asked for in the guest's place
//! the end: the table goes, here or in `reap`; taps go with the VMM, an own namespace with all of it
//! ```
//!
//! It is done at the first Start of a sandbox's life, once; a pod's further containers find it done. A
//! namespace without interfaces costs a look and nothing else. What `cube-net` does on the host is asked
//! for here; nothing here encodes a message.

mod egress;
mod error;
mod names;
mod request;
mod undo;
mod watch;
mod wiring;

use std::sync::Arc;

use cube_net::dns::Named;
use cube_net::policy::Policy;
use cube_net::table;
use cube_net::wire::Pair;
use tokio::sync::Mutex;

pub(crate) use egress::Egress;
pub use error::NetworkError;
pub(crate) use names::Servers;
pub use names::{NameServer, NameServerError};
pub use undo::UndoError;
pub(crate) use undo::undo;

use crate::error::chain;
use crate::guest::Guest;
use crate::layout::{NetworkState, Record};
use crate::trace;
use crate::vmm::Vmm;
use names::{Names, Rules};
use wiring::Wiring;

/// The network of a running machine.
#[derive(Debug)]
pub(crate) struct Network {
    vmm: Vmm,
    guest: Guest,
    record: Arc<Record>,
    /// Who is asked for names, where the sandbox began with a policy: its containers ask the relay then.
    servers: Option<Servers>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    egress: Egress,
    /// Interfaces and their taps; none before the first Start.
    pairs: Option<Vec<Pair>>,
}

impl Network {
    /// With `servers`, its names are answered here once it is attached.
    pub(crate) fn new(
        vmm: Vmm,
        guest: Guest,
        record: Record,
        egress: Egress,
        servers: Option<Servers>,
    ) -> Self {
        Self {
            vmm,
            guest,
            record: Arc::new(record),
            servers,
            state: Mutex::new(State {
                egress,
                pairs: None,
            }),
        }
    }

    /// Who is asked for names, if they are relayed.
    pub(crate) fn servers(&self) -> Option<&Servers> {
        self.servers.as_ref()
    }

    /// Gives the guest what is in the namespace now. Once: later calls do nothing. After a failure
    /// nothing is left of it, and the next call tries again.
    pub(crate) async fn attach(self: &Arc<Self>) -> Result<(), NetworkError> {
        let mut state = self.state.lock().await;
        if state.pairs.is_some() {
            return Ok(());
        }
        let _stage = trace::stage("network");
        let pairs = match self.wire(&state.egress).await {
            Ok(None) => Vec::new(),
            Ok(Some(wiring)) => {
                let pairs = wiring.pairs.clone();
                if let Err(error) = self.connect(wiring).await {
                    self.disconnect(&pairs).await;
                    return Err(error);
                }
                pairs
            }
            Err(error) => {
                self.disconnect(&[]).await;
                return Err(error);
            }
        };
        // Without a network nothing leaves the sandbox, names neither.
        if let Some(servers) = self.servers.clone().filter(|_| !pairs.is_empty()) {
            let names = Names::new(self.clone(), servers);
            let (vsock, end) = (self.guest.vsock().to_owned(), self.vmm.end().clone());
            tokio::spawn(async move { names.answer(&vsock, &end).await });
        }
        state.pairs = Some(pairs);
        Ok(())
    }

    /// Replaces what the guest may send to, at once and as a whole; before the first Start, what it will
    /// begin with. Names can be allowed only where they go through the relay.
    pub(crate) async fn set_egress(&self, policy: Policy) -> Result<(), NetworkError> {
        egress::check(&policy, self.servers.is_some())?;
        let mut state = self.state.lock().await;
        let mut egress = state.egress.clone();
        egress.policy = Some(policy);
        let pairs = state.pairs.clone().unwrap_or_default();
        if let Some(bounded) = egress.bound()? {
            let record = self.record.clone();
            let enforce = move || egress::enforce(&record, &pairs, &bounded);
            self.inside(enforce).await?;
        }
        state.egress = egress;
        Ok(())
    }

    /// What has to be done in the namespace.
    async fn wire(&self, egress: &Egress) -> Result<Option<Wiring>, NetworkError> {
        let bounded = egress.bound()?;
        let record = self.record.clone();
        let runtime = tokio::runtime::Handle::current();
        self.inside(move || wiring::wire(&record, bounded.as_ref(), &runtime))
            .await
    }

    /// Runs work on a thread in the namespace.
    async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let namespace = self.vmm.namespace().map_err(NetworkError::Namespace)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = namespace.run(work);
            done.map_err(NetworkError::Namespace)?
        });
        done.await.unwrap_or(Err(NetworkError::Abandoned))
    }

    /// What has to be done with the machine and the guest.
    async fn connect(&self, wiring: Wiring) -> Result<(), NetworkError> {
        {
            let _stage = trace::stage("network.devices");
            for ((slot, tap), pair) in (0..).zip(wiring.taps).zip(&wiring.pairs) {
                let attached = self.vmm.attach_net(slot, tap).await;
                attached.map_err(|source| NetworkError::Device {
                    interface: pair.interface.name.clone(),
                    source,
                })?;
            }
        }
        {
            let _stage = trace::stage("network.guest");
            let configured = self
                .guest
                .configure_network(request::of(&wiring.found, self.servers.is_some()));
            configured.await.map_err(NetworkError::Guest)?;
        }
        let vmm = self.vmm.clone();
        tokio::spawn(watch::watch(vmm, wiring.watch, wiring.pairs));
        Ok(())
    }

    /// The way back of a network that did not come up. What remains is for the end of the machine.
    async fn disconnect(&self, pairs: &[Pair]) {
        for (slot, _) in (0..).zip(pairs) {
            if let Err(error) = self.vmm.detach_net(slot).await {
                tracing::debug!(slot, error = %chain(&error), "a network device keeps its tap");
            }
        }
        let record = self.record.clone();
        let undone = tokio::task::spawn_blocking(move || {
            let network = record.network();
            undo(&network).map_err(NetworkError::Undo)?;
            let nothing = NetworkState {
                interfaces: Vec::new(),
                ..network
            };
            record.set_network(nothing).map_err(NetworkError::Record)
        });
        let undone = undone.await.unwrap_or(Err(NetworkError::Abandoned));
        if let Err(error) = undone {
            tracing::warn!(error = %chain(&error), "the wiring of a network stays for now");
        }
    }
}

impl Rules for Network {
    async fn may_resolve(&self, name: &str) -> bool {
        let state = self.state.lock().await;
        let policy = state.egress.policy.as_ref();
        policy.is_some_and(|policy| policy.may_resolve(name))
    }

    async fn admit(&self, name: &str, named: Named) -> Result<(), NetworkError> {
        // Held until it is done: a policy that does not allow the name comes before or after.
        let state = self.state.lock().await;
        let policy = state.egress.policy.as_ref();
        let is_allowed = policy.is_some_and(|policy| policy.admits(name));
        if !is_allowed || named.addresses.is_empty() {
            return Ok(());
        }
        let admit = move || table::admit(&named.addresses, named.lifetime);
        self.inside(move || admit().map_err(NetworkError::Table))
            .await
    }
}
