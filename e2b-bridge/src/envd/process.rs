// SPDX-License-Identifier: Apache-2.0
//! `process.Process`: starting processes, listening to them, telling them things.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cube_runtime::PlaneError;
use cube_runtime::plane::{JobEnd, JobEvent, JobOutput, JobRef, Plane, StartJob, TerminalSize};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request::Asked;
use super::stream::{Sender, Turn};
use super::{Code, EnvdError, connect, stream};
use crate::moment::Moment;
use crate::sandbox::{Level, Sandbox};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StartRequest {
    process: ProcessConfig,
    pty: Option<Pty>,
    tag: Option<String>,
    stdin: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProcessConfig {
    cmd: String,
    args: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Pty {
    size: Size,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Size {
    cols: u16,
    rows: u16,
}

/// Which process; with what is to be done to it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OneRequest {
    process: Selector,
    input: Option<Input>,
    signal: Option<Value>,
    pty: Option<Pty>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Selector {
    pid: Option<u32>,
    tag: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    stdin: Option<String>,
    pty: Option<String>,
}

/// One message of a stream of input.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InputMessage {
    start: Option<OneRequest>,
    data: Option<OneRequest>,
}

/// Answers a call.
pub async fn call(
    sandbox: &Arc<Sandbox>,
    asked: &Asked,
    method: &str,
    request: Request<Body>,
) -> Response {
    match method {
        "Start" | "Connect" => {
            let opened = open(sandbox, asked, method, request).await;
            opened.unwrap_or_else(|error| stream::failure(&error))
        }
        "StreamInput" => match stream_input(sandbox, request).await {
            Ok(()) => stream::respond(&HeaderMap::new(), json!({}), |sender| async move {
                // It ends with the one answer that it has, or with a client that has left.
                sender.send(&json!({})).await.ok();
                Ok(())
            }),
            Err(error) => stream::failure(&error),
        },
        _ => match single(sandbox, method, request).await {
            Ok(answer) => Json(answer).into_response(),
            Err(error) => error.into_unary(),
        },
    }
}

async fn open(
    sandbox: &Arc<Sandbox>,
    asked: &Asked,
    method: &str,
    request: Request<Body>,
) -> Result<Response, EnvdError> {
    let headers = request.headers().clone();
    let (output, logger) = if method == "Start" {
        start(sandbox, asked, &headers, request).await?
    } else {
        let wanted: OneRequest = connect::message(request).await?;
        let (job, subject) = wanted.process.job()?;
        let attached = plane(sandbox).await?.attach(&job).await;
        let attached = attached.map_err(|error| EnvdError::of_plane(error, "", &subject))?;
        (attached, subject)
    };
    let sandbox = sandbox.clone();
    let sign = json!({"event": stream::keepalive_event(None)});
    let relayed = |sender| relay(sandbox, output, logger, sender);
    Ok(stream::respond(&headers, sign, relayed))
}

async fn start(
    sandbox: &Sandbox,
    asked: &Asked,
    headers: &HeaderMap,
    request: Request<Body>,
) -> Result<(JobOutput, String), EnvdError> {
    let wanted: StartRequest = connect::message(request).await?;
    let cwd = wanted.process.cwd.unwrap_or_default();
    let job = StartJob {
        command: wanted.process.cmd,
        args: wanted.process.args,
        env: wanted.process.envs,
        cwd: cwd.clone(),
        user: asked.user.clone(),
        tag: wanted.tag,
        stdin: wanted.stdin.unwrap_or(true),
        terminal: wanted.pty.map(Pty::size),
        deadline: deadline(headers),
    };
    let command = std::slice::from_ref(&job.command);
    let words = [command, job.args.as_slice()].concat().join(" ");
    let started = plane(sandbox).await?.start(&job).await;
    let output = started.map_err(|error| EnvdError::of_plane(error, &asked.user, &cwd))?;
    let text = format!("process {} started: {words}", output.pid());
    sandbox.log().add(Moment::now(), Level::Info, "envd", &text);
    Ok((output, job.command))
}

/// Passes a process's output on until it or the client is gone; the process is not ended by that.
async fn relay(
    sandbox: Arc<Sandbox>,
    mut output: JobOutput,
    logger: String,
    sender: Sender,
) -> Result<(), EnvdError> {
    let started = json!({"event": {"start": {"pid": output.pid()}}});
    if sender.send(&started).await.is_err() {
        return Ok(());
    }
    loop {
        let event = match sender.next(output.next()).await {
            Turn::Next(event) => event.map_err(|error| EnvdError::of_plane(error, "", ""))?,
            Turn::Left => return Ok(()),
        };
        let Some(event) = event else {
            return Ok(());
        };
        log(&sandbox, &logger, &event);
        if sender
            .send(&json!({"event": to_json(&event)}))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}

fn log(sandbox: &Sandbox, logger: &str, event: &JobEvent) {
    let (level, text) = match event {
        JobEvent::Output(bytes) => (Level::Info, String::from_utf8_lossy(bytes)),
        JobEvent::Errors(bytes) => (Level::Error, String::from_utf8_lossy(bytes)),
        JobEvent::End(end) => (Level::Info, end_words(end).2.into()),
    };
    sandbox.log().add(Moment::now(), level, logger, &text);
}

fn to_json(event: &JobEvent) -> Value {
    match event {
        JobEvent::Output(bytes) => json!({"data": {"stdout": STANDARD.encode(bytes)}}),
        JobEvent::Errors(bytes) => json!({"data": {"stderr": STANDARD.encode(bytes)}}),
        JobEvent::End(end) => {
            let (code, exited, status) = end_words(end);
            let mut end = json!({"exitCode": code, "exited": exited, "status": status});
            if code != 0 {
                end["error"] = end["status"].clone();
            }
            json!({"end": end})
        }
    }
}

/// Exit code, whether it exited, and how Go would put it.
fn end_words(end: &JobEnd) -> (i32, bool, String) {
    match end.signal {
        None => (
            end.exit_code.into(),
            true,
            format!("exit status {}", end.exit_code),
        ),
        Some(signal) => (-1, false, format!("signal: {}", signal_name(signal))),
    }
}

fn signal_name(signal: u32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

async fn single(
    sandbox: &Sandbox,
    method: &str,
    request: Request<Body>,
) -> Result<Value, EnvdError> {
    let plane = plane(sandbox).await?;
    if method == "List" {
        let jobs = plane.jobs().await;
        let jobs = jobs.map_err(|error| EnvdError::of_plane(error, "", ""))?;
        let processes: Vec<Value> = jobs.into_iter().map(listed).collect();
        return Ok(json!({"processes": processes}));
    }
    let wanted: OneRequest = connect::message(request).await?;
    let (job, subject) = wanted.process.job()?;
    let done = match method {
        "SendInput" => plane.write_input(&job, &wanted.input()?).await,
        "SendSignal" => plane.signal(&job, wanted.signal()?, false).await,
        "CloseStdin" => plane.close_input(&job).await,
        "Update" => {
            let pty = wanted
                .pty
                .ok_or_else(|| EnvdError::invalid("pty is missing"))?;
            plane.resize(&job, pty.size()).await
        }
        _ => {
            let words = format!("process.Process has no {method}");
            return Err(EnvdError::new(Code::Unimplemented, words));
        }
    };
    done.map_err(|error| EnvdError::of_plane(error, "", &subject))?;
    Ok(json!({}))
}

async fn stream_input(sandbox: &Sandbox, request: Request<Body>) -> Result<(), EnvdError> {
    let plane = plane(sandbox).await?;
    let mut body = request.into_body().into_data_stream();
    let mut received = Vec::new();
    let mut target = None;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| EnvdError::invalid(error.to_string()))?;
        received.extend_from_slice(&piece);
        while let Some(json) = connect::take(&mut received)? {
            let message: InputMessage = connect::parse(&json)?;
            if let Some(start) = message.start {
                target = Some(start.process.job()?);
            }
            let Some(data) = message.data else {
                continue;
            };
            let none = || EnvdError::invalid("the first message has to name the process");
            let (job, subject) = target.as_ref().ok_or_else(none)?;
            let written = plane.write_input(job, &data.input()?).await;
            written.map_err(|error| EnvdError::of_plane(error, "", subject))?;
        }
    }
    Ok(())
}

fn listed(job: cube_runtime::plane::Job) -> Value {
    let mut process = json!({
        "config": {"cmd": job.command, "args": job.args, "envs": job.env, "cwd": job.cwd},
        "pid": job.pid,
    });
    if let Some(tag) = job.tag {
        process["tag"] = tag.into();
    }
    process
}

async fn plane(sandbox: &Sandbox) -> Result<&Plane, EnvdError> {
    let opened: Result<&Plane, PlaneError> = sandbox.plane().await;
    opened.map_err(|error| EnvdError::of_plane(error, "", ""))
}

/// How long a process may live: the client's own limit for the call.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let limit = headers.get("connect-timeout-ms")?.to_str().ok()?;
    let limit = limit.parse().ok().filter(|limit| *limit > 0)?;
    Some(Duration::from_millis(limit))
}

impl Pty {
    fn size(self) -> TerminalSize {
        TerminalSize {
            columns: self.size.cols,
            rows: self.size.rows,
        }
    }
}

impl Selector {
    /// The process, and how messages call it.
    fn job(&self) -> Result<(JobRef, String), EnvdError> {
        match (self.pid, &self.tag) {
            (Some(pid), _) => Ok((JobRef::Pid(pid), format!("pid {pid}"))),
            (None, Some(tag)) => Ok((JobRef::Tag(tag.clone()), format!("tag '{tag}'"))),
            (None, None) => Err(EnvdError::invalid("process: pid or tag is missing")),
        }
    }
}

impl OneRequest {
    fn input(&self) -> Result<Vec<u8>, EnvdError> {
        let input = self.input.as_ref();
        let text = input.and_then(|input| input.stdin.as_ref().or(input.pty.as_ref()));
        let text = text.ok_or_else(|| EnvdError::invalid("input: stdin or pty is missing"))?;
        let bytes = STANDARD.decode(text);
        bytes.map_err(|error| EnvdError::invalid(format!("input: {error}")))
    }

    fn signal(&self) -> Result<u32, EnvdError> {
        let signal = self.signal.as_ref();
        match signal.and_then(Value::as_str) {
            Some("SIGNAL_SIGKILL") => Ok(9),
            Some("SIGNAL_SIGTERM") => Ok(15),
            _ => match signal.and_then(Value::as_u64) {
                Some(9) => Ok(9),
                Some(15) => Ok(15),
                _ => Err(EnvdError::invalid(
                    "signal: SIGNAL_SIGKILL or SIGNAL_SIGTERM",
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn end(exit_code: u8, signal: Option<u32>) -> Value {
        to_json(&JobEvent::End(JobEnd {
            exit_code,
            signal,
            ended_at: UNIX_EPOCH,
            oom_killed: false,
        }))
    }

    #[test]
    fn ends_are_told_as_go_does() {
        assert_eq!(
            end(0, None),
            json!({"end": {"exitCode": 0, "exited": true, "status": "exit status 0"}})
        );
        assert_eq!(end(3, None)["end"]["error"], "exit status 3");
        let killed = end(0, Some(9));
        assert_eq!(killed["end"]["exitCode"], -1);
        assert_eq!(killed["end"]["status"], "signal: killed");
    }

    #[test]
    fn output_is_base64() {
        let event = to_json(&JobEvent::Errors(b"no\n".to_vec()));
        assert_eq!(event, json!({"data": {"stderr": "bm8K"}}));
    }

    #[test]
    fn what_sdks_send_is_understood() {
        let start: StartRequest = serde_json::from_value(json!({
            "process": {"cmd": "/bin/bash", "args": ["-l", "-c", "ls"], "envs": {"A": "b"}},
            "pty": {"size": {"cols": 80, "rows": 24}}, "unknown": 1,
        }))
        .unwrap();
        assert_eq!(start.process.args.len(), 3);
        assert_eq!(start.pty.unwrap().size().columns, 80);
        assert_eq!(start.stdin, None);
        let one: OneRequest = serde_json::from_value(json!({
            "process": {"tag": "t"}, "signal": "SIGNAL_SIGTERM", "input": {"stdin": "aGk="},
        }))
        .unwrap();
        assert_eq!(one.process.job().unwrap().0, JobRef::Tag("t".into()));
        assert_eq!(one.signal().unwrap(), 15);
        assert_eq!(one.input().unwrap(), b"hi");
    }

    #[test]
    fn a_process_has_to_be_named() {
        let one: OneRequest = connect::parse(b"{}").unwrap();
        assert!(one.process.job().is_err());
        assert!(one.input().is_err());
        assert!(one.signal().is_err());
    }
}
