// SPDX-License-Identifier: Apache-2.0
//! Jobs: processes of a container that outlive whoever started them.
//!
//! Whoever starts one holds its output, and others may attach to it later. While somebody holds it, the
//! process waits for a slow reader; when nobody does, it goes on and what it prints is dropped.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cube_protocol::FrameKind;
use cube_protocol::v1::agent::ContainerRequest;
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::answer::Answer;
use cube_protocol::v1::plane::opening::Wanted;
use protobuf::MessageField;

use super::channel::Channel;
use super::connection::CALL_TIMEOUT;
use super::{Plane, PlaneError};

/// Most bytes of input in one call; more go in several. The agent writes them into a pipe of 64 KiB.
const INPUT_CHUNK: usize = 256 * 1024;

/// What to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartJob {
    /// A path, or a name to look for in PATH.
    pub command: String,
    /// Without the command itself.
    pub args: Vec<String>,
    /// On top of the environment of the container's first process, and of HOME, USER and LOGNAME.
    pub env: BTreeMap<String, String>,
    /// Absolute, or relative to the user's home; empty: that home.
    pub cwd: String,
    /// A name or number of the container's /etc/passwd; empty: root.
    pub user: String,
    /// To find it again.
    pub tag: Option<String>,
    /// Whether it has an input; without, it reads the end at once. A terminal always has.
    pub stdin: bool,
    /// Runs it on a terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// Its process group is killed this long after the start.
    pub deadline: Option<Duration>,
}

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// Which job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobRef {
    /// By its process id, as the container sees it.
    Pid(u32),
    /// By its tag.
    Tag(String),
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// As the container sees it.
    pub pid: u32,
    /// As it was started.
    pub command: String,
    /// As it was started.
    pub args: Vec<String>,
    /// As it was started.
    pub env: BTreeMap<String, String>,
    /// As it was started.
    pub cwd: String,
    /// As it was started.
    pub tag: Option<String>,
    /// Whether it is on a terminal.
    pub has_terminal: bool,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// 0 to 255; 0 for a death by signal.
    pub exit_code: u8,
    /// The signal that killed it.
    pub signal: Option<u32>,
    /// When, by the guest's clock.
    pub ended_at: SystemTime,
    /// The guest's kernel had killed a process of the container for want of memory.
    pub oom_killed: bool,
}

/// What a job's output consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// Bytes of its standard output, or of its terminal.
    Output(Vec<u8>),
    /// Bytes of its standard error.
    Errors(Vec<u8>),
    /// It has ended, and this was all.
    End(JobEnd),
}

/// A job's output, from the moment of its start or of the attachment on. Dropping it leaves the job alone.
#[derive(Debug)]
pub struct JobOutput {
    channel: Channel,
    pid: u32,
    has_ended: bool,
}

impl Plane {
    /// Starts a job and holds its output.
    pub async fn start(&self, job: &StartJob) -> Result<JobOutput, PlaneError> {
        let start = Wanted::Start(job.to_wire());
        self.job_channel("start the process", start).await
    }

    /// Holds the output of a job from now on. One that ended a short while ago tells its end.
    pub async fn attach(&self, job: &JobRef) -> Result<JobOutput, PlaneError> {
        let attach = Wanted::Attach(job.to_wire());
        self.job_channel("attach to the process", attach).await
    }

    /// The jobs that run, oldest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, PlaneError> {
        let request = ContainerRequest {
            container_id: self.container_id(),
            ..Default::default()
        };
        let call = self.connection.call(
            "list its processes",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.list_jobs(context, &request).await },
        );
        Ok(call.await?.jobs.into_iter().map(Job::from).collect())
    }

    /// Writes to a job's input; answers when all of it is in the process's pipe or terminal. A process that
    /// does not read makes this wait up to a limit.
    pub async fn write_input(&self, job: &JobRef, data: &[u8]) -> Result<(), PlaneError> {
        for chunk in data.chunks(INPUT_CHUNK) {
            let request = wire::WriteInputRequest {
                container_id: self.container_id(),
                job: MessageField::some(job.to_wire()),
                data: chunk.to_vec(),
                ..Default::default()
            };
            let call = self.connection.call(
                "write to the process",
                Some(CALL_TIMEOUT),
                |client, context| async move { client.write_input(context, &request).await },
            );
            call.await?;
        }
        Ok(())
    }

    /// Closes a job's input: it reads the end. On a terminal, write 0x04 instead.
    pub async fn close_input(&self, job: &JobRef) -> Result<(), PlaneError> {
        let request = self.job_request(job);
        let call = self.connection.call(
            "close the process's input",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.close_input(context, &request).await },
        );
        call.await.map(drop)
    }

    /// Sends a signal to a job's process, or to the whole group that it leads.
    pub async fn signal(&self, job: &JobRef, signal: u32, group: bool) -> Result<(), PlaneError> {
        let request = wire::SignalJobRequest {
            container_id: self.container_id(),
            job: MessageField::some(job.to_wire()),
            signal,
            group,
            ..Default::default()
        };
        let call = self.connection.call(
            "signal the process",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.signal_job(context, &request).await },
        );
        call.await.map(drop)
    }

    /// Tells a job's terminal its size.
    pub async fn resize(&self, job: &JobRef, size: TerminalSize) -> Result<(), PlaneError> {
        let request = wire::ResizeJobRequest {
            container_id: self.container_id(),
            job: MessageField::some(job.to_wire()),
            size: MessageField::some(size.to_wire()),
            ..Default::default()
        };
        let call = self.connection.call(
            "resize the terminal",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.resize_job(context, &request).await },
        );
        call.await.map(drop)
    }

    /// Waits for the end of a job without holding its output.
    pub async fn wait(&self, job: &JobRef) -> Result<JobEnd, PlaneError> {
        let request = self.job_request(job);
        let call =
            self.connection
                .call("wait for the process", None, |client, context| async move {
                    client.wait_job(context, &request).await
                });
        call.await.map(JobEnd::from)
    }

    fn job_request(&self, job: &JobRef) -> wire::JobRequest {
        wire::JobRequest {
            container_id: self.container_id(),
            job: MessageField::some(job.to_wire()),
            ..Default::default()
        }
    }

    async fn job_channel(
        &self,
        what: &'static str,
        wanted: Wanted,
    ) -> Result<JobOutput, PlaneError> {
        match self.open_channel(what, wanted).await? {
            (channel, Answer::Started(started)) => Ok(JobOutput {
                channel,
                pid: started.pid,
                has_ended: false,
            }),
            (channel, _) => Err(channel.malformed()),
        }
    }
}

impl JobOutput {
    /// The job's process id, as the container sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What comes next; none after the end. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Result<Option<JobEvent>, PlaneError> {
        if self.has_ended {
            return Ok(None);
        }
        let event = match self.channel.next().await? {
            Some((FrameKind::Output, bytes)) => JobEvent::Output(bytes),
            Some((FrameKind::Errors, bytes)) => JobEvent::Errors(bytes),
            Some((FrameKind::Message, payload)) => {
                self.has_ended = true;
                let end: wire::JobEnd = self.channel.message(&payload)?;
                JobEvent::End(end.into())
            }
            Some((FrameKind::End, _)) => return Err(self.channel.malformed()),
            None => return Err(self.channel.ended_early()),
        };
        Ok(Some(event))
    }
}

impl StartJob {
    fn to_wire(&self) -> wire::StartJob {
        let config = wire::JobConfig {
            command: self.command.clone(),
            args: self.args.clone(),
            env: self.env.clone().into_iter().collect(),
            cwd: self.cwd.clone(),
            ..Default::default()
        };
        let deadline = self.deadline.unwrap_or_default().as_millis();
        wire::StartJob {
            config: MessageField::some(config),
            user: self.user.clone(),
            tag: self.tag.clone().unwrap_or_default(),
            stdin: self.stdin,
            terminal: self.terminal.map(TerminalSize::to_wire).into(),
            deadline_ms: u64::try_from(deadline).unwrap_or(u64::MAX),
            ..Default::default()
        }
    }
}

impl TerminalSize {
    fn to_wire(self) -> wire::TerminalSize {
        wire::TerminalSize {
            columns: self.columns.into(),
            rows: self.rows.into(),
            ..Default::default()
        }
    }
}

impl JobRef {
    fn to_wire(&self) -> wire::JobRef {
        let job = match self {
            Self::Pid(pid) => wire::job_ref::Job::Pid(*pid),
            Self::Tag(tag) => wire::job_ref::Job::Tag(tag.clone()),
        };
        wire::JobRef {
            job: Some(job),
            ..Default::default()
        }
    }
}

impl From<wire::Job> for Job {
    fn from(job: wire::Job) -> Self {
        let config = job.config.unwrap_or_default();
        Self {
            pid: job.pid,
            command: config.command,
            args: config.args,
            env: config.env.into_iter().collect(),
            cwd: config.cwd,
            tag: Some(job.tag).filter(|tag| !tag.is_empty()),
            has_terminal: job.terminal,
        }
    }
}

impl From<wire::JobEnd> for JobEnd {
    fn from(end: wire::JobEnd) -> Self {
        let ended_at = UNIX_EPOCH.checked_add(Duration::from_nanos(end.ended_at_ns));
        Self {
            exit_code: u8::try_from(end.exit_code).unwrap_or(u8::MAX),
            signal: Some(end.signal).filter(|signal| *signal != 0),
            ended_at: ended_at.unwrap_or(UNIX_EPOCH),
            oom_killed: end.oom_killed,
        }
    }
}
