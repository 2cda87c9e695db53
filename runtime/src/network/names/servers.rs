// SPDX-License-Identifier: Apache-2.0
//! Who is asked for a sandbox's names: whom the operator says, else whom the client gave the sandbox's first
//! container, else whom the host asks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::server::{NameServer, PORT};
use crate::config::EgressConfig;
use crate::resolv_conf::nameservers;

/// Clones know the same.
#[derive(Clone, Debug)]
pub(crate) struct Servers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    configured: Option<Vec<SocketAddr>>,
    client: Mutex<Option<Client>>,
    /// The host's own file.
    host: PathBuf,
    is_told: AtomicBool,
}

/// What a client gave a container.
#[derive(Debug)]
struct Client {
    container: String,
    servers: Vec<SocketAddr>,
}

impl Servers {
    pub(crate) fn new(config: &EgressConfig) -> Self {
        Self::on(config, "/etc/resolv.conf".into())
    }

    pub(super) fn on(config: &EgressConfig, host: PathBuf) -> Self {
        let configured = config.dns.as_ref();
        Self(Arc::new(Inner {
            configured: configured
                .map(|all| all.iter().map(|one| NameServer::address(*one)).collect()),
            client: Mutex::default(),
            host,
            is_told: AtomicBool::new(false),
        }))
    }

    /// What a client's resolv.conf for a container says, each time that it says something else. The first
    /// container that has one speaks for the sandbox.
    pub(crate) fn heard(&self, container: &str, resolv_conf: &[u8]) {
        let mut client = self.client();
        let is_first = client
            .as_ref()
            .is_none_or(|client| client.container == container);
        if is_first {
            // A loopback address is the container's own, and would be the host's here.
            let far = nameservers(resolv_conf)
                .into_iter()
                .filter(|ip| !ip.is_loopback());
            *client = Some(Client {
                container: container.into(),
                servers: usual_port(far),
            });
        }
    }

    /// In the order in which they are to be asked. None at all is in the log, once.
    pub(super) async fn list(&self) -> Vec<SocketAddr> {
        let known = self.0.configured.clone().or_else(|| self.of_client());
        let servers = match known {
            Some(servers) => servers,
            None => self.of_host().await,
        };
        if servers.is_empty() && !self.0.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!("there is no name server to ask: names of the sandbox have no answer");
        }
        servers
    }

    fn of_client(&self) -> Option<Vec<SocketAddr>> {
        let client = self.client();
        let servers = client.as_ref().map(|client| client.servers.clone());
        servers.filter(|servers| !servers.is_empty())
    }

    async fn of_host(&self) -> Vec<SocketAddr> {
        match tokio::fs::read(&self.0.host).await {
            Ok(text) => usual_port(nameservers(&text).into_iter()),
            Err(error) => {
                tracing::debug!(%error, path = %self.0.host.display(), "not read");
                Vec::new()
            }
        }
    }

    fn client(&self) -> MutexGuard<'_, Option<Client>> {
        self.0.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usual_port(all: impl Iterator<Item = IpAddr>) -> Vec<SocketAddr> {
    all.map(|ip| (ip, PORT).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(servers: &Servers, expect: &[&str]) {
        let list: Vec<_> = servers
            .list()
            .await
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(list, expect);
    }

    #[tokio::test]
    async fn the_operator_wins_over_the_client_and_the_client_over_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("resolv.conf");
        let servers = Servers::on(&EgressConfig::default(), host.clone());
        check(&servers, &[]).await;
        std::fs::write(&host, "nameserver 127.0.0.53\n").unwrap();
        check(&servers, &["127.0.0.53:53"]).await;
        servers.heard("one", b"nameserver 127.0.0.11\n");
        check(&servers, &["127.0.0.53:53"]).await;
        servers.heard("two", b"nameserver 10.0.0.2\n");
        servers.heard("one", b"nameserver 10.0.0.1\nnameserver fd00::1\n");
        check(&servers, &["10.0.0.1:53", "[fd00::1]:53"]).await;
        let config = EgressConfig {
            dns: Some(vec!["10.0.0.3:5353".parse().unwrap()]),
            ..EgressConfig::default()
        };
        let servers = Servers::on(&config, host);
        servers.heard("one", b"nameserver 10.0.0.1\n");
        check(&servers, &["10.0.0.3:5353"]).await;
    }
}
