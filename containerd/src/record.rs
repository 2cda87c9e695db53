// SPDX-License-Identifier: Apache-2.0
//! What containerd keeps of containers: their records, made, read, changed and removed.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Containerd;
use super::container::any;
use super::error::{ContainerdError, failed};
use super::wire::containerd::services::containers::v1::containers_client::ContainersClient;
use super::wire::containerd::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, ListContainersRequest,
    UpdateContainerRequest, container::Runtime,
};
use super::wire::containerd::types::{Any, FieldMask};

/// The name under which containerd's clients put an OCI spec into messages.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// What containerd is to keep of a container.
#[derive(Clone, Copy, Debug)]
pub struct ContainerRecord<'a> {
    /// Its name, which is that of its snapshot too.
    pub id: &'a str,
    /// The name of its image.
    pub image: &'a str,
    /// The runtime that is to run it.
    pub runtime: &'a str,
    /// The snapshotter that has its disk.
    pub snapshotter: &'a str,
    /// Its OCI spec.
    pub spec: &'a Value,
    /// What it can be found by.
    pub labels: &'a [(&'a str, &'a str)],
    /// Data of the client's, which containerd keeps and does not read.
    pub extension: Option<Extension<'a>>,
}

/// A client's data in a container's record.
#[derive(Clone, Copy, Debug)]
pub struct Extension<'a> {
    /// Its name, which is that of its type too.
    pub name: &'a str,
    /// The data, in the client's own encoding.
    pub data: &'a [u8],
}

/// What containerd kept of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredContainer {
    /// Its name.
    pub id: String,
    /// The snapshotter that has its disk.
    pub snapshotter: String,
    /// Extensions by their names.
    pub extensions: BTreeMap<String, Vec<u8>>,
}

impl Containerd {
    /// Makes the record of a container.
    pub async fn create_container(
        &self,
        record: ContainerRecord<'_>,
    ) -> Result<(), ContainerdError> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let container = Container {
            id: record.id.into(),
            labels: record.labels.iter().map(own).collect(),
            image: record.image.into(),
            runtime: Some(Runtime {
                name: record.runtime.into(),
            }),
            spec: Some(any(SPEC, record.spec)),
            snapshotter: record.snapshotter.into(),
            snapshot_key: record.id.into(),
            extensions: record.extension.map(entry).into_iter().collect(),
        };
        let request = CreateContainerRequest {
            container: Some(container),
        };
        let answer = ContainersClient::new(self.service()).create(request).await;
        answer.map_err(failed("create the container", record.id))?;
        Ok(())
    }

    /// All containers of the namespace.
    pub async fn containers(&self) -> Result<Vec<StoredContainer>, ContainerdError> {
        let request = ListContainersRequest { filters: vec![] };
        let answer = ContainersClient::new(self.service()).list(request).await;
        let answer = answer.map_err(failed("list", "containers"))?.into_inner();
        Ok(answer.containers.into_iter().map(stored).collect())
    }

    /// Puts a client's data in the place of what the record has under its name.
    pub async fn update_extension(
        &self,
        id: &str,
        extension: Extension<'_>,
    ) -> Result<(), ContainerdError> {
        let request = UpdateContainerRequest {
            container: Some(Container {
                id: id.into(),
                extensions: [entry(extension)].into(),
                ..Container::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec![format!("extensions.{}", extension.name)],
            }),
        };
        let answer = ContainersClient::new(self.service()).update(request).await;
        answer.map_err(failed("change the container", id))?;
        Ok(())
    }

    /// Removes a container's record.
    pub async fn delete_container(&self, id: &str) -> Result<(), ContainerdError> {
        let request = DeleteContainerRequest { id: id.into() };
        let answer = ContainersClient::new(self.service()).delete(request).await;
        answer.map_err(failed("delete the container", id))?;
        Ok(())
    }
}

fn entry(extension: Extension<'_>) -> (String, Any) {
    let value = Any {
        type_url: extension.name.into(),
        value: extension.data.into(),
    };
    (extension.name.into(), value)
}

fn stored(container: Container) -> StoredContainer {
    let extensions = container.extensions.into_iter();
    StoredContainer {
        id: container.id,
        snapshotter: container.snapshotter,
        extensions: extensions.map(|(name, any)| (name, any.value)).collect(),
    }
}
