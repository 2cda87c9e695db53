// SPDX-License-Identifier: Apache-2.0
//! Starting a job for the connection that asked for it, and having others hold its output.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::answer::Answer;
use rustix::fs::OFlags;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::accounts::Account;
use super::channel::{Channel, Stop};
use super::fault::PlaneFault;
use super::job::{Chunk, Job};
use super::jobs::{Jobs, KEPT};
use super::view::{View, expand};
use crate::agent::Agent;
use crate::container::Container;
use crate::error::AgentError;
use crate::process::{Connection, SpawnError, Wanted};
use crate::stage::{ProcessPlan, WindowSize};

/// Longest tag.
const MAX_TAG: usize = 255;

/// Where programs are looked for when neither the image nor the request says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a job and sends what it prints. When the connection ends the job goes on.
pub async fn serve<C: Connection>(
    agent: &Arc<Agent>,
    container: Arc<Container>,
    channel: &mut Channel<C>,
    request: wire::StartJob,
) -> Result<(), Stop> {
    let begun = Arc::clone(agent);
    // Finished whatever happens to the connection.
    let started = tokio::spawn(async move { start(&begun, &container, request).await });
    let broken = |_| PlaneFault::Agent(AgentError::Broken);
    let (job, chunks) = started.await.map_err(broken)??;
    follow(channel, &job, chunks).await
}

/// Sends what a job prints from now on.
pub async fn attach<C: Connection>(
    container: &Container,
    channel: &mut Channel<C>,
    wanted: &wire::JobRef,
) -> Result<(), Stop> {
    let job = container.jobs().find(wanted)?;
    let chunks = job.hold()?;
    follow(channel, &job, chunks).await
}

async fn follow<C: Connection>(
    channel: &mut Channel<C>,
    job: &Job,
    mut chunks: mpsc::Receiver<Chunk>,
) -> Result<(), Stop> {
    let mut started = wire::JobStarted::new();
    started.pid = job.pid;
    channel.answer(Answer::Started(started)).await?;
    loop {
        let chunk = tokio::select! {
            chunk = chunks.recv() => chunk,
            gone = channel.closed() => return Err(gone.into()),
        };
        match chunk {
            Some((kind, bytes)) => channel.send(kind, &bytes).await?,
            None => break,
        }
    }
    // Without one the container is gone, and the connection just ends.
    if let Some(end) = job.end() {
        channel.tell(&end).await?;
    }
    Ok(())
}

async fn start(
    agent: &Agent,
    container: &Arc<Container>,
    request: wire::StartJob,
) -> Result<(Arc<Job>, mpsc::Receiver<Chunk>), PlaneFault> {
    container.jobs().check_room()?;
    let plan = {
        let visit = container.visit().await?;
        let (request, first) = (request.clone(), container.first_plan()?.clone());
        visit.block(move |view| plan(view, &request, first)).await?
    };
    let wanted = Wanted {
        stdin: request.stdin || request.terminal.is_some(),
        stdout: true,
        stderr: request.terminal.is_none(),
    };
    let not_started = |error: AgentError| match error {
        error @ (AgentError::Spawn(_) | AgentError::Start(_)) => PlaneFault::NotStarted(error),
        other => PlaneFault::Agent(other),
    };
    let process = agent
        .create_job_process(container, plan, request.terminal.is_some(), wanted)
        .await
        .map_err(not_started)?;
    // Without a number it is dead already.
    let killed = || not_started(SpawnError::Killed { hint: "" }.into());
    let pid = inner_pid(process.pid()).ok_or_else(killed)?;
    let (job, outputs) =
        Job::of(process, pid, &request).map_err(|_| PlaneFault::Agent(AgentError::Broken))?;
    let chunks = job.hold()?;
    job.start().await.map_err(not_started)?;
    container.jobs().add(Arc::clone(&job));
    let running = Arc::clone(&job);
    tokio::spawn(async move { running.run(outputs).await });
    let deadline = Some(request.deadline_ms).filter(|ms| *ms > 0);
    tokio::spawn(mind(
        Arc::clone(container.jobs()),
        Arc::clone(&job),
        deadline.map(Duration::from_millis),
    ));
    Ok((job, chunks))
}

/// Kills it when its time is up, and forgets it some time after its end.
async fn mind(jobs: Arc<Jobs>, job: Arc<Job>, deadline: Option<Duration>) {
    if let Some(deadline) = deadline
        && timeout(deadline, job.wait()).await.is_err()
    {
        job.kill();
    }
    job.wait().await;
    sleep(KEPT).await;
    jobs.forget(&job);
}

fn plan(
    view: &View,
    request: &wire::StartJob,
    first: ProcessPlan,
) -> Result<ProcessPlan, PlaneFault> {
    let invalid = |field, reason: &str| PlaneFault::Request {
        field,
        reason: reason.to_owned(),
    };
    let config = request.config.clone().unwrap_or_default();
    if config.command.is_empty() {
        return Err(invalid("command", "is empty"));
    }
    if request.tag.len() > MAX_TAG {
        return Err(invalid("tag", "is longer than 255 bytes"));
    }
    let user = view.accounts.find(&request.user)?;
    let env = environment(&first.env, &user, &config)?;
    let mut args = vec![config.command];
    args.extend(config.args);
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid("args", "contain a NUL byte"));
    }
    Ok(ProcessPlan {
        args,
        env,
        cwd: directory(view, &config.cwd, &user)?,
        uid: user.uid,
        gid: user.gid,
        groups: view.accounts.groups_of(&user),
        window: request.terminal.as_ref().map(window).transpose()?,
        ..first
    })
}

/// The first process's, then what a login sets, then what was asked for.
fn environment(
    first: &[String],
    user: &Account,
    config: &wire::JobConfig,
) -> Result<Vec<String>, PlaneFault> {
    let mut env: BTreeMap<String, String> = [("PATH".to_owned(), PATH.to_owned())].into();
    let split = |entry: &String| entry.split_once('=').map(|(k, v)| (k.into(), v.into()));
    env.extend(first.iter().filter_map(split));
    let home = user.home.to_string_lossy();
    for (key, value) in [
        ("HOME", home.as_ref()),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
    ] {
        env.insert(key.to_owned(), value.to_owned());
    }
    for (key, value) in &config.env {
        let is_bad = key.is_empty() || key.contains(['=', '\0']) || value.contains('\0');
        if is_bad {
            return Err(PlaneFault::Request {
                field: "env",
                reason: format!("{key:?} cannot be set"),
            });
        }
        env.insert(key.clone(), value.clone());
    }
    Ok(env.into_iter().map(|(k, v)| format!("{k}={v}")).collect())
}

/// Where it starts. A home that is not there is no error, because nobody asked for it.
fn directory(view: &View, cwd: &str, user: &Account) -> Result<PathBuf, PlaneFault> {
    let path = expand(cwd, &user.home)?;
    let found = view.root.find(&path, OFlags::PATH | OFlags::DIRECTORY);
    match found {
        Ok(_) => Ok(path),
        Err(_) if cwd.is_empty() => Ok(PathBuf::from("/")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(PlaneFault::NoCwd { cwd: path })
        }
        Err(error) => Err(PlaneFault::file("start in", &path)(error)),
    }
}

/// The size that a message has.
pub fn window(size: &wire::TerminalSize) -> Result<WindowSize, PlaneFault> {
    let number = |field, value: u32| {
        u16::try_from(value).map_err(|_| PlaneFault::Request {
            field,
            reason: format!("{value} is more than a terminal can have"),
        })
    };
    Ok(WindowSize {
        columns: number("columns", size.columns)?,
        rows: number("rows", size.rows)?,
    })
}

/// A process's number as its own namespace has it: the last of `NSpid` (proc_pid_status(5)).
fn inner_pid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Root;

    fn user() -> Account {
        Account {
            name: "u".to_owned(),
            uid: 7,
            gid: 8,
            home: PathBuf::from("/home/u"),
            shell: "/bin/sh".to_owned(),
        }
    }

    #[test]
    fn an_environment_is_the_images_then_the_users_then_the_requests() {
        let first = ["PATH=/bin", "HOME=/root", "A=1", "odd"].map(str::to_owned);
        let mut config = wire::JobConfig::new();
        config.env = [("A".to_owned(), "2".to_owned())].into();
        let env = environment(&first, &user(), &config).unwrap();
        assert_eq!(
            env,
            ["A=2", "HOME=/home/u", "LOGNAME=u", "PATH=/bin", "USER=u"]
        );
        let none = environment(&[], &user(), &wire::JobConfig::new()).unwrap();
        assert!(none.contains(&format!("PATH={PATH}")));
        for key in ["", "A=B", "A\0"] {
            config.env = [(key.to_owned(), String::new())].into();
            assert!(environment(&first, &user(), &config).is_err(), "{key:?}");
        }
    }

    #[test]
    fn a_directory_that_was_asked_for_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let view = View::of(Root::open(dir.path()).unwrap()).unwrap();
        let start = |cwd| directory(&view, cwd, &user());
        assert_eq!(start("/work").unwrap(), Path::new("/work"));
        // Nobody asked for the home, which is missing.
        assert_eq!(start("").unwrap(), Path::new("/"));
        let error = start("/none").unwrap_err();
        assert_eq!(error.to_string(), "cwd '/none' does not exist");
        assert!(matches!(start("~"), Err(PlaneFault::NoCwd { .. })));
    }

    #[test]
    fn the_inner_number_of_this_process_is_its_own() {
        assert!(inner_pid(std::process::id()).is_some());
        assert_eq!(inner_pid(u32::MAX), None);
    }
}
