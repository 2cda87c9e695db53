// SPDX-License-Identifier: Apache-2.0
//! OCI hooks: programs of the host that a client wants run at points of a container's life.
//!
//! They get the container's state as JSON on standard input (OCI runtime spec, "POSIX-platform Hooks" and
//! "State"). The reported process is the VMM: it lives in the sandbox's network namespace, which is what
//! network hooks look for. `createContainer` hooks run in the host's mount namespace, because the
//! container's is in the guest; `startContainer` hooks are programs of the image and refused (`spec`).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Spec};
use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::guest_text;

/// Longest run of a hook that names no time-out of its own. Network hooks wait for DHCP and the like.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes kept of what a failed hook printed.
const MAX_OUTPUT: u64 = 4096;

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Prestart,
    CreateRuntime,
    CreateContainer,
    Poststart,
    Poststop,
}

/// The hooks of one container, with what their state says.
#[derive(Clone, Debug)]
pub(crate) struct Hooks {
    hooks: Option<oci_spec::runtime::Hooks>,
    version: String,
    id: String,
    pid: u32,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

impl Point {
    fn name(self) -> &'static str {
        match self {
            Point::Prestart => "prestart",
            Point::CreateRuntime => "createRuntime",
            Point::CreateContainer => "createContainer",
            Point::Poststart => "poststart",
            Point::Poststop => "poststop",
        }
    }

    /// The container's status at this point, by the spec's lifecycle.
    fn status(self) -> &'static str {
        match self {
            Point::Prestart | Point::CreateRuntime | Point::CreateContainer => "creating",
            Point::Poststart => "running",
            Point::Poststop => "stopped",
        }
    }
}

impl Hooks {
    pub(crate) fn of(spec: &Spec, id: &str, pid: u32, bundle: &Path) -> Self {
        Self {
            hooks: spec.hooks().clone(),
            version: spec.version().clone(),
            id: id.into(),
            pid,
            bundle: bundle.into(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        }
    }

    /// Runs the hooks of one point in their order; the first that fails is the end of it.
    pub(crate) async fn run(&self, point: Point) -> Result<(), HookError> {
        for hook in self.at(point) {
            self.run_one(point, hook).await?;
        }
        Ok(())
    }

    /// Runs the hooks of a point whose failures are only warned of (poststart and poststop, by the spec).
    pub(crate) async fn run_all(&self, point: Point) {
        for hook in self.at(point) {
            if let Err(error) = self.run_one(point, hook).await {
                tracing::warn!(container = self.id, error = %crate::error::chain(&error), "hook failed");
            }
        }
    }

    fn at(&self, point: Point) -> &[Hook] {
        let Some(hooks) = &self.hooks else {
            return &[];
        };
        let list = match point {
            #[allow(
                deprecated,
                reason = "deprecated in the spec, and what docker still uses"
            )]
            Point::Prestart => hooks.prestart(),
            Point::CreateRuntime => hooks.create_runtime(),
            Point::CreateContainer => hooks.create_container(),
            Point::Poststart => hooks.poststart(),
            Point::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }

    fn state(&self, point: Point) -> Vec<u8> {
        let mut state = json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": point.status(),
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        // The spec asks for a pid of created and running containers only.
        if point != Point::Poststop {
            state["pid"] = self.pid.into();
        }
        state.to_string().into_bytes()
    }

    async fn run_one(&self, point: Point, hook: &Hook) -> Result<(), HookError> {
        let path = hook.path();
        let place = || (point.name(), path.clone());
        let limit = hook
            .timeout()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let child = self.command(hook).spawn().map_err(|source| {
            let (point, path) = place();
            HookError::Spawn {
                point,
                path,
                source,
            }
        })?;
        // Cancelled by the limit, the child is killed: kill_on_drop.
        let ended = timeout(limit, feed_and_wait(child, self.state(point))).await;
        let (point, path) = place();
        let (status, output) = ended
            .map_err(|_| HookError::Timeout {
                point,
                path: path.clone(),
                limit_s: limit.as_secs(),
            })?
            .map_err(|source| HookError::Wait {
                point,
                path: path.clone(),
                source,
            })?;
        if status.success() {
            return Ok(());
        }
        Err(HookError::Failed {
            point,
            path,
            how: describe(status),
            output: guest_text::one_line(&output),
        })
    }

    fn command(&self, hook: &Hook) -> Command {
        let mut command = Command::new(hook.path());
        // args[0] is the program's name for itself, as in execve(2).
        if let Some((name, rest)) = hook.args().as_deref().unwrap_or_default().split_first() {
            command.arg0(name).args(rest);
        }
        if let Some(env) = hook.env() {
            let pairs = env.iter().filter_map(|pair| pair.split_once('='));
            command
                .env_clear()
                .envs(pairs.map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
        }
        command
            .current_dir(&self.bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// Gives the state to a hook and waits for its end; what it said on standard error comes back.
async fn feed_and_wait(mut child: Child, state: Vec<u8>) -> io::Result<(ExitStatus, String)> {
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A hook need not read its state: a broken pipe is no failure.
            match stdin.write_all(&state).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    let listen = async {
        let mut output = Vec::new();
        if let Some(mut stderr) = stderr {
            (&mut stderr)
                .take(MAX_OUTPUT)
                .read_to_end(&mut output)
                .await?;
            // The rest is read and thrown away, so that the hook never waits for a reader.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok(String::from_utf8_lossy(&output).into_owned())
    };
    let ended = async {
        // A child of the hook may keep the pipe open: the hook's own end is what counts.
        let listening = async {
            listen
                .await
                .unwrap_or_else(|error: io::Error| error.to_string())
        };
        tokio::pin!(listening);
        tokio::select! {
            output = &mut listening => Ok((child.wait().await?, output)),
            status = child.wait() => {
                let status = status?;
                let rest = timeout(OUTPUT_AFTER_END, listening).await;
                Ok((status, rest.unwrap_or_default()))
            }
        }
    };
    let (fed, ended) = tokio::join!(feed, ended);
    fed?;
    ended
}

/// How long to wait for the rest of a hook's output once it has ended.
const OUTPUT_AFTER_END: Duration = Duration::from_millis(100);

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".into(),
    }
}

/// Why a hook failed.
#[derive(Debug, Error)]
pub enum HookError {
    /// It could not be started.
    #[error("the {point} hook {} could not be started", path.display())]
    Spawn {
        /// When it was to run.
        point: &'static str,
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be waited for.
    #[error("the {point} hook {} could not be waited for", path.display())]
    Wait {
        /// When it ran.
        point: &'static str,
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ran too long and was killed.
    #[error("the {point} hook {} was killed after {limit_s} s", path.display())]
    Timeout {
        /// When it ran.
        point: &'static str,
        /// The program.
        path: PathBuf,
        /// Its limit.
        limit_s: u64,
    },
    /// It failed.
    #[error("the {point} hook {} failed with {how}: {output}", path.display())]
    Failed {
        /// When it ran.
        point: &'static str,
        /// The program.
        path: PathBuf,
        /// Exit code or signal.
        how: String,
        /// What it said on standard error.
        output: String,
    },
}

#[cfg(test)]
mod tests;
