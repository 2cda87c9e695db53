// SPDX-License-Identifier: Apache-2.0
//! The ttrpc service: messages in, calls of [`Agent`], messages out.
//!
//! Every call that changes something runs as a task of its own. A connection that breaks cancels its
//! handlers, and half a container is worse than one that nobody asks for any more.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cube_protocol::PROTOCOL_VERSION;
use cube_protocol::v1::agent as wire;
use cube_protocol::v1::agent_ttrpc;
use ttrpc::r#async::TtrpcContext;

use crate::agent::Agent;
use crate::cgroup::Stats;
use crate::container::{Command, Disk, FsType, HostFile};
use crate::error::AgentError;
use crate::guest::Claim;
use crate::network::Network;
use crate::oci;
use crate::process::Wanted;
use crate::stage::WindowSize;

/// Between the answer to Shutdown and the end, for the answer to leave the machine.
const LAST_WORD: Duration = Duration::from_millis(20);

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
        agent_ttrpc::create_agent(Arc::new(self))
    }

    /// Finishes a call whatever happens to its connection.
    async fn finish<T, F>(&self, call: impl FnOnce(Arc<Agent>) -> F) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, AgentError>> + Send + 'static,
    {
        match tokio::spawn(call(Arc::clone(&self.0))).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(AgentError::Broken.into()),
        }
    }
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn greet(
        &self,
        _: &TtrpcContext,
        request: wire::GreetRequest,
    ) -> ttrpc::Result<wire::GreetResponse> {
        if request.protocol != PROTOCOL_VERSION {
            return Err(AgentError::Protocol {
                host: request.protocol,
                agent: PROTOCOL_VERSION,
            }
            .into());
        }
        self.0.greet();
        let mut response = wire::GreetResponse::new();
        response.protocol = PROTOCOL_VERSION;
        response.agent_version = env!("CARGO_PKG_VERSION").to_owned();
        response.kernel_release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Ok(response)
    }

    async fn claim(
        &self,
        _: &TtrpcContext,
        request: wire::ClaimRequest,
    ) -> ttrpc::Result<wire::Empty> {
        let claim = Claim {
            hostname: request.hostname,
            realtime: SystemTime::UNIX_EPOCH + Duration::from_nanos(request.realtime_ns),
            since_greeting: Duration::from_nanos(request.since_greeting_ns),
            entropy: request.entropy,
            machine_id: request.machine_id,
        };
        self.0.claim(&claim)?;
        Ok(wire::Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: wire::CreateContainerRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| {
            let root = request.root.as_ref().ok_or_else(|| AgentError::Request {
                field: "root",
                reason: "is missing".to_owned(),
            })?;
            let disk = Disk {
                slot: root.slot,
                fs_type: FsType::parse(&root.fs_type)?,
                read_only: root.read_only,
            };
            let files = request
                .files
                .into_iter()
                .map(host_file)
                .collect::<Result<Vec<_>, _>>()?;
            agent
                .create_container(&request.container_id, &request.spec_json, disk, &files)
                .await
        })
        .await?;
        Ok(wire::Empty::new())
    }

    async fn delete_container(
        &self,
        _: &TtrpcContext,
        request: wire::ContainerRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| agent.delete_container(&request.container_id).await)
            .await?;
        Ok(wire::Empty::new())
    }

    async fn pause_container(
        &self,
        _: &TtrpcContext,
        request: wire::ContainerRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| agent.container(&request.container_id)?.pause(true).await)
            .await?;
        Ok(wire::Empty::new())
    }

    async fn resume_container(
        &self,
        _: &TtrpcContext,
        request: wire::ContainerRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| agent.container(&request.container_id)?.pause(false).await)
            .await?;
        Ok(wire::Empty::new())
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateContainerRequest,
    ) -> ttrpc::Result<wire::Empty> {
        let resources =
            oci::parse("resources", &request.resources_json).map_err(AgentError::from)?;
        self.0
            .container(&request.container_id)?
            .update(&resources)?;
        Ok(wire::Empty::new())
    }

    async fn update_file(
        &self,
        _: &TtrpcContext,
        request: wire::UpdateFileRequest,
    ) -> ttrpc::Result<wire::Empty> {
        let destination = file_destination(&request.destination)?;
        self.0
            .container(&request.container_id)?
            .update_file(&destination, &request.content)?;
        Ok(wire::Empty::new())
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        request: wire::ContainerRequest,
    ) -> ttrpc::Result<wire::StatsResponse> {
        Ok(stats(self.0.container(&request.container_id)?.stats()?))
    }

    async fn list_pids(
        &self,
        _: &TtrpcContext,
        request: wire::ContainerRequest,
    ) -> ttrpc::Result<wire::ListPidsResponse> {
        let pids = self.0.container(&request.container_id)?.pids()?;
        let mut response = wire::ListPidsResponse::new();
        response.processes = pids
            .into_iter()
            .map(|(pid, exec_id)| {
                let mut process = wire::ProcessPid::new();
                process.pid = pid;
                process.exec_id = exec_id;
                process
            })
            .collect();
        Ok(response)
    }

    async fn wait_oom(
        &self,
        _: &TtrpcContext,
        request: wire::ContainerRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.0.container(&request.container_id)?.wait_oom().await?;
        Ok(wire::Empty::new())
    }

    async fn create_process(
        &self,
        _: &TtrpcContext,
        request: wire::CreateProcessRequest,
    ) -> ttrpc::Result<wire::CreateProcessResponse> {
        let pid = self
            .finish(async move |agent| {
                let command = Command {
                    exec_id: &request.exec_id,
                    json: &request.process_json,
                    terminal: request.terminal,
                    wanted: Wanted {
                        stdin: request.stdin,
                        stdout: request.stdout,
                        stderr: request.stderr && !request.terminal,
                    },
                };
                agent.create_process(&request.container_id, command).await
            })
            .await?;
        let mut response = wire::CreateProcessResponse::new();
        response.pid = pid;
        Ok(response)
    }

    async fn start_process(
        &self,
        _: &TtrpcContext,
        request: wire::ProcessRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| {
            let process = agent.process(&request.container_id, &request.exec_id)?;
            Ok(process.start().await?)
        })
        .await?;
        Ok(wire::Empty::new())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: wire::SignalProcessRequest,
    ) -> ttrpc::Result<wire::Empty> {
        if request.all {
            self.0
                .container(&request.container_id)?
                .signal_all(request.signal)?;
        } else {
            self.0
                .process(&request.container_id, &request.exec_id)?
                .signal(request.signal)
                .map_err(AgentError::from)?;
        }
        Ok(wire::Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: wire::ProcessRequest,
    ) -> ttrpc::Result<wire::WaitProcessResponse> {
        let process = self.0.process(&request.container_id, &request.exec_id)?;
        let exit = process.wait().await;
        let mut response = wire::WaitProcessResponse::new();
        response.exit_status = exit.status;
        response.exited_at_ns = nanoseconds(exit.at);
        response.oom_killed = exit.oom_killed;
        Ok(response)
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: wire::ResizeTerminalRequest,
    ) -> ttrpc::Result<wire::Empty> {
        let number = |field, value: u32| {
            u16::try_from(value).map_err(|_| AgentError::Request {
                field,
                reason: format!("{value} is more than a terminal can have"),
            })
        };
        let size = WindowSize {
            columns: number("columns", request.columns)?,
            rows: number("rows", request.rows)?,
        };
        self.0
            .process(&request.container_id, &request.exec_id)?
            .resize(size)
            .map_err(AgentError::from)?;
        Ok(wire::Empty::new())
    }

    async fn delete_process(
        &self,
        _: &TtrpcContext,
        request: wire::ProcessRequest,
    ) -> ttrpc::Result<wire::Empty> {
        self.0
            .delete_process(&request.container_id, &request.exec_id)?;
        Ok(wire::Empty::new())
    }

    async fn configure_network(
        &self,
        _: &TtrpcContext,
        request: wire::NetworkRequest,
    ) -> ttrpc::Result<wire::Empty> {
        let network = Network::parse(request).map_err(AgentError::from)?;
        self.finish(async move |agent| agent.configure_network(network).await)
            .await?;
        Ok(wire::Empty::new())
    }

    async fn quiesce(&self, _: &TtrpcContext, _: wire::Empty) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| agent.quiesce().await)
            .await?;
        Ok(wire::Empty::new())
    }

    async fn adopt_container(
        &self,
        _: &TtrpcContext,
        request: wire::AdoptContainerRequest,
    ) -> ttrpc::Result<wire::AdoptContainerResponse> {
        let first = self
            .0
            .adopt_container(&request.container_id, &request.new_container_id)?;
        Ok(wire::AdoptContainerResponse {
            pid: first.pid,
            terminal: first.terminal,
            stdin: first.streams.stdin,
            stdout: first.streams.stdout,
            stderr: first.streams.stderr,
            ..Default::default()
        })
    }

    async fn thaw(&self, _: &TtrpcContext, _: wire::Empty) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| agent.thaw().await).await?;
        Ok(wire::Empty::new())
    }

    async fn rehearse(&self, _: &TtrpcContext, _: wire::Empty) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| agent.rehearse().await)
            .await?;
        Ok(wire::Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: wire::Empty) -> ttrpc::Result<wire::Empty> {
        self.finish(async move |agent| {
            agent.delete_all().await;
            tokio::spawn(async move {
                tokio::time::sleep(LAST_WORD).await;
                agent.power_off();
            });
            Ok(())
        })
        .await?;
        Ok(wire::Empty::new())
    }
}

fn host_file(file: wire::HostFile) -> Result<HostFile, AgentError> {
    Ok(HostFile {
        destination: file_destination(&file.destination)?,
        content: file.content,
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
    })
}

fn file_destination(path: &str) -> Result<PathBuf, AgentError> {
    oci::absolute(Path::new(path)).ok_or_else(|| AgentError::Request {
        field: "destination",
        reason: format!("{path:?} is not an absolute path"),
    })
}

/// Since the epoch; 0 for what was before it.
pub fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

fn stats(stats: Stats) -> wire::StatsResponse {
    let cpu = |key: &str| stats.cpu.get(key).copied().unwrap_or(0);
    let mut response = wire::StatsResponse::new();
    let out = response.cpu.mut_or_insert_default();
    out.usage_usec = cpu("usage_usec");
    out.user_usec = cpu("user_usec");
    out.system_usec = cpu("system_usec");
    out.nr_periods = cpu("nr_periods");
    out.nr_throttled = cpu("nr_throttled");
    out.throttled_usec = cpu("throttled_usec");
    let out = response.memory.mut_or_insert_default();
    out.current = stats.memory;
    out.max = stats.memory_max;
    out.swap_current = stats.swap;
    out.swap_max = stats.swap_max;
    out.stat = stats.memory_stat;
    out.events = stats.memory_events;
    let out = response.pids.mut_or_insert_default();
    out.current = stats.pids;
    out.max = stats.pids_max;
    response.io = stats
        .io
        .into_iter()
        .map(|device| {
            let counter = |key: &str| device.counters.get(key).copied().unwrap_or(0);
            let mut out = wire::IoStats::new();
            out.major = device.major;
            out.minor = device.minor;
            out.rbytes = counter("rbytes");
            out.wbytes = counter("wbytes");
            out.rios = counter("rios");
            out.wios = counter("wios");
            out
        })
        .collect();
    response
}
