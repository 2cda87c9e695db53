// SPDX-License-Identifier: Apache-2.0
//! The ttrpc service of the plane: messages in, what the sibling modules do, messages out. A call whose
//! connection breaks is finished all the same where it changes something.

use std::sync::Arc;

use async_trait::async_trait;
use cube_protocol::v1::agent::{ContainerRequest, Empty};
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane_ttrpc;
use protobuf::MessageField;
use ttrpc::r#async::TtrpcContext;

use super::fault::PlaneFault;
use super::job::Job;
use super::view::View;
use super::{ensure, files, metrics, start};
use crate::agent::Agent;
use crate::container::Container;

/// The service, for one or more servers.
#[derive(Clone)]
pub struct Service(Arc<Agent>);

impl Service {
    /// Over an agent.
    pub fn new(agent: Arc<Agent>) -> Self {
        Self(agent)
    }

    /// Its methods, for a server to register.
    pub fn methods(self) -> std::collections::HashMap<String, ttrpc::r#async::Service> {
        plane_ttrpc::create_plane(Arc::new(self))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, PlaneFault> {
        Ok(self.0.container(id)?)
    }

    fn job(
        &self,
        container: &str,
        job: &MessageField<wire::JobRef>,
    ) -> Result<Arc<Job>, PlaneFault> {
        let missing = || PlaneFault::Request {
            field: "job",
            reason: "is missing".to_owned(),
        };
        let job = job.as_ref().ok_or_else(missing)?;
        self.container(container)?.jobs().find(job)
    }

    /// Does something in a container's tree.
    async fn inside<T: Send + 'static>(
        &self,
        container: &str,
        work: impl FnOnce(&View) -> Result<T, PlaneFault> + Send + 'static,
    ) -> Result<T, PlaneFault> {
        let visit = self.container(container)?.visit().await?;
        visit.block(work).await
    }
}

#[async_trait]
impl plane_ttrpc::Plane for Service {
    async fn list_jobs(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<wire::ListJobsResponse> {
        let jobs = self.container(&request.container_id)?.jobs().running();
        Ok(listed(&jobs)?)
    }

    async fn write_input(
        &self,
        _: &TtrpcContext,
        request: wire::WriteInputRequest,
    ) -> ttrpc::Result<Empty> {
        let job = self.job(&request.container_id, &request.job)?;
        job.write_input(&request.data).await?;
        Ok(Empty::new())
    }

    async fn close_input(
        &self,
        _: &TtrpcContext,
        request: wire::JobRequest,
    ) -> ttrpc::Result<Empty> {
        let job = self.job(&request.container_id, &request.job)?;
        job.close_input().await?;
        Ok(Empty::new())
    }

    async fn signal_job(
        &self,
        _: &TtrpcContext,
        request: wire::SignalJobRequest,
    ) -> ttrpc::Result<Empty> {
        let job = self.job(&request.container_id, &request.job)?;
        job.signal(request.signal, request.group)?;
        Ok(Empty::new())
    }

    async fn resize_job(
        &self,
        _: &TtrpcContext,
        request: wire::ResizeJobRequest,
    ) -> ttrpc::Result<Empty> {
        let job = self.job(&request.container_id, &request.job)?;
        job.resize(start::window(&request.size.unwrap_or_default())?)?;
        Ok(Empty::new())
    }

    async fn wait_job(
        &self,
        _: &TtrpcContext,
        request: wire::JobRequest,
    ) -> ttrpc::Result<wire::JobEnd> {
        let job = self.job(&request.container_id, &request.job)?;
        Ok(job.wait().await)
    }

    async fn stat(
        &self,
        _: &TtrpcContext,
        request: wire::PathRequest,
    ) -> ttrpc::Result<wire::Entry> {
        let place = request.place.unwrap_or_default();
        let look = move |view: &View| files::stat(view, &place);
        Ok(self.inside(&request.container_id, look).await?)
    }

    async fn make_directory(
        &self,
        _: &TtrpcContext,
        request: wire::PathRequest,
    ) -> ttrpc::Result<wire::Entry> {
        let place = request.place.unwrap_or_default();
        let make = move |view: &View| files::make_directory(view, &place);
        Ok(self.inside(&request.container_id, make).await?)
    }

    async fn rename(
        &self,
        _: &TtrpcContext,
        request: wire::RenameRequest,
    ) -> ttrpc::Result<wire::Entry> {
        let source = request.source.unwrap_or_default();
        let destination = request.destination.unwrap_or_default();
        let rename = move |view: &View| files::rename(view, &source, &destination);
        Ok(self.inside(&request.container_id, rename).await?)
    }

    async fn remove(&self, _: &TtrpcContext, request: wire::PathRequest) -> ttrpc::Result<Empty> {
        let place = request.place.unwrap_or_default();
        let remove = move |view: &View| files::remove(view, &place);
        self.inside(&request.container_id, remove).await?;
        Ok(Empty::new())
    }

    async fn compose(
        &self,
        _: &TtrpcContext,
        request: wire::ComposeRequest,
    ) -> ttrpc::Result<wire::Entry> {
        let destination = request.destination.unwrap_or_default();
        let sources = request.sources;
        let compose = move |view: &View| files::compose(view, &sources, &destination);
        Ok(self.inside(&request.container_id, compose).await?)
    }

    async fn ensure_user(
        &self,
        _: &TtrpcContext,
        request: wire::EnsureUserRequest,
    ) -> ttrpc::Result<wire::User> {
        let ensure = move |view: &View| ensure::ensure(view, &request.name);
        Ok(self.inside(&request.container_id, ensure).await?)
    }

    async fn metrics(
        &self,
        _: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<wire::MetricsResponse> {
        let stats = self.container(&request.container_id)?.stats();
        let stats = stats.map_err(PlaneFault::from)?;
        let percent = self.0.plane().processors().percent()?;
        let gather = move |view: &View| metrics::gather(view, &stats);
        let mut metrics = self.inside(&request.container_id, gather).await?;
        metrics.cpu_used_percent = percent;
        Ok(metrics)
    }
}

/// Most bytes of a list: well below what ttrpc carries (4 MiB).
const MAX_LIST: u64 = 3 << 20;

/// All of them, however long their commands and environments are: those are cut first.
fn listed(jobs: &[Arc<Job>]) -> Result<wire::ListJobsResponse, PlaneFault> {
    use protobuf::Message;
    let mut response = wire::ListJobsResponse::new();
    let mut bytes = 0;
    for job in jobs {
        let mut job = job.to_wire();
        if bytes + job.compute_size() > MAX_LIST {
            let config = job.config.mut_or_insert_default();
            config.args.clear();
            config.env.clear();
        }
        bytes += job.compute_size();
        response.jobs.push(job);
    }
    if bytes > MAX_LIST + (1 << 19) {
        return Err(PlaneFault::TooMany {
            what: "bytes of processes to list",
            most: usize::try_from(MAX_LIST).unwrap_or(usize::MAX),
        });
    }
    Ok(response)
}
