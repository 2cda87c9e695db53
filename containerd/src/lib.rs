// SPDX-License-Identifier: Apache-2.0
//! A client of containerd's gRPC API, as much of it as our programs need.
//!
//! Not a client for people: no streams, no terminals, no pulling. Each method is one call or one short
//! sequence that a container's life has, in the order of `ctr run`: [`Containerd::prepare`],
//! [`Containerd::create_container`], [`Containerd::create_task`], [`Containerd::start`],
//! [`Containerd::wait`] and back; [`Containerd::containers`] and [`Containerd::tasks`] say what there is. Works
//! with containerd 1.6 to 2.x. Used by `cube bench` and by the E2B bridge.

mod container;
mod error;
mod image;
mod lease;
mod record;
pub mod rfc3339;
mod task;

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub use error::ContainerdError;
pub use image::{Image, ImageConfig};
pub use record::{ContainerRecord, Extension, StoredContainer};
pub use task::{TaskStatus, TaskSummary};
pub use wire::containerd::types::Mount;

use error::failed;
use wire::containerd::services::version::v1::version_client::VersionClient;
use wire::containerd::types::Empty;

/// Generated from `proto/`.
#[allow(missing_docs, reason = "generated; the proto files have the words")]
#[allow(
    clippy::allow_attributes_without_reason,
    reason = "generated code carries its own attributes"
)]
mod wire {
    tonic::include_proto!("wire");
}

/// A connection to one containerd, in one of its namespaces.
#[derive(Clone, Debug)]
pub struct Containerd {
    channel: Channel,
    headers: Headers,
}

/// What goes with every call.
#[derive(Clone, Debug)]
struct Headers {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Containerd {
    /// Connects to the daemon's socket.
    pub async fn connect(socket: &Path, namespace: &str) -> Result<Self, ContainerdError> {
        let connect = async { endpoint(socket)?.connect().await };
        let channel = connect.await.map_err(no_connection(socket))?;
        Self::over(channel, namespace)
    }

    /// Connects when the first call is made; a daemon that is away is that call's error. In an asynchronous
    /// runtime only.
    pub fn connect_lazily(socket: &Path, namespace: &str) -> Result<Self, ContainerdError> {
        let endpoint = endpoint(socket).map_err(no_connection(socket))?;
        Self::over(endpoint.connect_lazy(), namespace)
    }

    fn over(channel: Channel, namespace: &str) -> Result<Self, ContainerdError> {
        let namespace = namespace.parse().map_err(|_| ContainerdError::Namespace {
            namespace: namespace.into(),
        })?;
        Ok(Self {
            channel,
            headers: Headers {
                namespace,
                lease: None,
            },
        })
    }

    /// The daemon's version, as it says it.
    pub async fn version(&self) -> Result<String, ContainerdError> {
        let mut client = VersionClient::new(self.channel.clone());
        let answer = client.version(Empty {}).await;
        let answer = answer.map_err(failed("ask for the version of", "containerd"))?;
        Ok(answer.into_inner().version)
    }

    /// What a service's client is made of.
    fn service(&self) -> InterceptedService<Channel, Headers> {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }
}

fn endpoint(socket: &Path) -> Result<Endpoint, tonic::transport::Error> {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
}

fn no_connection(socket: &Path) -> impl FnOnce(tonic::transport::Error) -> ContainerdError {
    move |source| ContainerdError::Connect {
        socket: socket.into(),
        source,
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        headers.insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            headers.insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}
