// SPDX-License-Identifier: Apache-2.0
//! Leases: without one, containerd collects a snapshot as garbage before a container refers to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::rfc3339;

use super::Containerd;
use super::error::{ContainerdError, failed};
use super::wire::containerd::services::leases::v1::leases_client::LeasesClient;
use super::wire::containerd::services::leases::v1::{CreateRequest, DeleteRequest};

/// The label that ends a lease whose holder died (containerd's documentation of garbage collection).
const EXPIRY: &str = "containerd.io/gc.expire";

impl Containerd {
    /// Takes a lease that covers whatever is made from now on, until it is ended or has lived this long.
    pub async fn take_lease(
        &mut self,
        id: &str,
        lifetime: Duration,
    ) -> Result<(), ContainerdError> {
        let header = id
            .parse()
            .map_err(|_| ContainerdError::Lease { id: id.into() })?;
        let since_epoch = (SystemTime::now() + lifetime).duration_since(UNIX_EPOCH);
        let expiry = rfc3339::format(since_epoch.unwrap_or_default());
        let request = CreateRequest {
            id: id.into(),
            labels: [(EXPIRY.to_owned(), expiry)].into(),
        };
        let mut leases = LeasesClient::new(self.service());
        let answer = leases.create(request).await;
        answer.map_err(failed("take the lease", id))?;
        self.headers.lease = Some(header);
        Ok(())
    }

    /// Ends the lease and waits for the collection of what it alone kept.
    pub async fn end_lease(&self, id: &str) -> Result<(), ContainerdError> {
        let request = DeleteRequest {
            id: id.into(),
            sync: true,
        };
        let mut leases = LeasesClient::new(self.service());
        leases
            .delete(request)
            .await
            .map_err(failed("end the lease", id))?;
        Ok(())
    }
}
