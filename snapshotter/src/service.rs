// SPDX-License-Identifier: Apache-2.0
//! The gRPC door: unpacks a request, calls one verb of [`Snapshotter`] on a blocking thread, packs
//! the answer. It decides nothing.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::error::SnapshotError;
use crate::filter::Filters;
use crate::record::{Kind, UnixNanos};
use crate::snapshotter::{self, Snapshotter};
use crate::wire::snapshots_server::Snapshots;
use crate::wire::{self, Info, Mount};

/// Snapshots in one message of a List, as containerd's own service sends them.
const LIST_CHUNK: usize = 100;
/// Messages of a List that may wait for a slow reader.
const LIST_QUEUE: usize = 2;

/// Serves one [`Snapshotter`].
pub struct Service {
    snapshotter: Arc<Snapshotter>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// A door to `snapshotter`.
    #[must_use]
    pub const fn new(snapshotter: Arc<Snapshotter>) -> Self {
        Self { snapshotter }
    }

    async fn call<T, F>(&self, verb: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Snapshotter) -> Result<T, SnapshotError> + Send + 'static,
    {
        let snapshotter = Arc::clone(&self.snapshotter);
        let done = tokio::task::spawn_blocking(move || verb(&snapshotter)).await;
        let result = done.map_err(|error| Status::internal(format!("a worker died: {error}")))?;
        result.map_err(|error| {
            let status = Status::from(error);
            tracing::debug!(code = ?status.code(), "{}", status.message());
            status
        })
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Answer<wire::PrepareSnapshotResponse> {
        let r = request.into_inner();
        let mount = self.call(move |s| s.prepare(&r.key, &r.parent, r.labels));
        let mounts = vec![mount.await?.into()];
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Answer<wire::ViewSnapshotResponse> {
        let r = request.into_inner();
        let mount = self.call(move |s| s.view(&r.key, &r.parent, r.labels));
        let mounts = vec![mount.await?.into()];
        Ok(Response::new(wire::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<wire::MountsRequest>) -> Answer<wire::MountsResponse> {
        let r = request.into_inner();
        let mount = self.call(move |s| s.mounts(&r.key)).await?;
        let mounts = vec![mount.into()];
        Ok(Response::new(wire::MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Answer<wire::Empty> {
        let r = request.into_inner();
        self.call(move |s| s.commit(&r.name, &r.key, r.labels))
            .await?;
        Ok(Response::new(wire::Empty {}))
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Answer<wire::Empty> {
        let r = request.into_inner();
        self.call(move |s| s.remove(&r.key)).await?;
        Ok(Response::new(wire::Empty {}))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Answer<wire::StatSnapshotResponse> {
        let r = request.into_inner();
        let info = self.call(move |s| s.stat(&r.key)).await?;
        let info = Some(info.into());
        Ok(Response::new(wire::StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Answer<wire::UpdateSnapshotResponse> {
        let r = request.into_inner();
        let info = r.info.unwrap_or_default();
        let paths = r.update_mask.unwrap_or_default().paths;
        let info = self.call(move |s| s.update(&info.name, &info.labels, &paths));
        let info = Some(info.await?.into());
        Ok(Response::new(wire::UpdateSnapshotResponse { info }))
    }

    type ListStream = ReceiverStream<Result<wire::ListSnapshotsResponse, Status>>;

    async fn list(&self, request: Request<wire::ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let filters = request.into_inner().filters;
        let filters = Filters::parse(&filters).map_err(SnapshotError::from)?;
        let (sender, receiver) = mpsc::channel(LIST_QUEUE);
        let snapshotter = Arc::clone(&self.snapshotter);
        tokio::task::spawn_blocking(move || list(&snapshotter, &filters, &sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn usage(&self, request: Request<wire::UsageRequest>) -> Answer<wire::UsageResponse> {
        let r = request.into_inner();
        let usage = self.call(move |s| s.usage(&r.key)).await?;
        Ok(Response::new(wire::UsageResponse {
            size: usage.bytes.try_into().unwrap_or(i64::MAX),
            inodes: usage.inodes.try_into().unwrap_or(i64::MAX),
        }))
    }

    async fn cleanup(&self, _: Request<wire::CleanupRequest>) -> Answer<wire::Empty> {
        self.call(Snapshotter::cleanup).await?;
        Ok(Response::new(wire::Empty {}))
    }
}

/// Sends what passes in chunks, until the reader is gone.
fn list(
    snapshotter: &Snapshotter,
    filters: &Filters,
    sender: &mpsc::Sender<Result<wire::ListSnapshotsResponse, Status>>,
) {
    let mut info = Vec::new();
    let send = |info| {
        sender
            .blocking_send(Ok(wire::ListSnapshotsResponse { info }))
            .is_ok()
    };
    let walked = snapshotter.walk(filters, |next| {
        info.push(next.into());
        info.len() < LIST_CHUNK || send(std::mem::take(&mut info))
    });
    let rest = match walked {
        Err(error) => sender.blocking_send(Err(error.into())).is_ok(),
        Ok(()) => info.is_empty() || send(info),
    };
    if !rest {
        tracing::debug!("the reader of a list went away");
    }
}

impl From<snapshotter::Mount> for Mount {
    fn from(mount: snapshotter::Mount) -> Self {
        Self {
            r#type: mount.kind.into(),
            source: mount.source,
            target: String::new(),
            options: mount.options.map(String::from).into(),
        }
    }
}

impl From<snapshotter::Info> for Info {
    fn from(info: snapshotter::Info) -> Self {
        let state = info.state;
        Self {
            name: info.key,
            parent: state.parent,
            kind: wire::Kind::from(state.kind).into(),
            created_at: Some(state.created.into()),
            updated_at: Some(state.updated.into()),
            labels: state.labels,
        }
    }
}

impl From<Kind> for wire::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::View => Self::View,
            Kind::Active => Self::Active,
            Kind::Committed => Self::Committed,
        }
    }
}

impl From<UnixNanos> for wire::Timestamp {
    fn from(time: UnixNanos) -> Self {
        let since = time.since_epoch();
        Self {
            seconds: since.as_secs().try_into().unwrap_or(i64::MAX),
            nanos: since.subsec_nanos().try_into().unwrap_or(0),
        }
    }
}
