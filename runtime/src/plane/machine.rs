// SPDX-License-Identifier: Apache-2.0
//! Users of a container, and the figures of its machine.

use cube_protocol::v1::agent::ContainerRequest;
use cube_protocol::v1::plane as wire;

use super::connection::CALL_TIMEOUT;
use super::{Plane, PlaneError};

/// A user of a container's /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Its home.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// What is used, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Processors.
    pub cpu_count: u32,
    /// Of all processors together, 0 to 100, since somebody asked last; the first time, since the boot.
    pub cpu_used_percent: f64,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_used: u64,
    /// Bytes.
    pub memory_cache: u64,
    /// Bytes of the container's root file system.
    pub disk_used: u64,
    /// Bytes of the container's root file system.
    pub disk_total: u64,
}

impl Plane {
    /// Makes sure that there is a user of this name, with a home, and with sudo without a password where
    /// the image has sudo. One that is there stays as it is.
    pub async fn ensure_user(&self, name: &str) -> Result<User, PlaneError> {
        let request = wire::EnsureUserRequest {
            container_id: self.container_id(),
            name: name.into(),
            ..Default::default()
        };
        let call = self.connection.call(
            "make the user",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.ensure_user(context, &request).await },
        );
        let user = call.await?;
        Ok(User {
            uid: user.uid,
            gid: user.gid,
            home: user.home,
            shell: user.shell,
        })
    }

    /// What is used now.
    pub async fn metrics(&self) -> Result<Metrics, PlaneError> {
        let request = ContainerRequest {
            container_id: self.container_id(),
            ..Default::default()
        };
        let call = self.connection.call(
            "tell its figures",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.metrics(context, &request).await },
        );
        let figures = call.await?;
        Ok(Metrics {
            cpu_count: figures.cpu_count,
            // What is no number would be one in no format either.
            cpu_used_percent: if figures.cpu_used_percent.is_finite() {
                figures.cpu_used_percent.clamp(0.0, 100.0)
            } else {
                0.0
            },
            memory_total: figures.memory_total,
            memory_used: figures.memory_used,
            memory_cache: figures.memory_cache,
            disk_used: figures.disk_used,
            disk_total: figures.disk_total,
        })
    }
}
