// SPDX-License-Identifier: Apache-2.0
//! What a template runs in each of its sandboxes, and when a sandbox is ready.

use std::sync::Arc;
use std::time::Duration;

use cube_containerd::ImageConfig;
use cube_runtime::PlaneError;
use cube_runtime::plane::{JobEvent, JobOutput, Plane, StartJob};
use cube_runtime::ports;
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::{Level, Sandbox};
use crate::moment::Moment;
use crate::template::{StartConfig, TemplateConfig};

/// Longest time until the template's program listens. It is emulated on some hosts, and Python is slow to start.
const READY_LIMIT: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// By which the program is found among a sandbox's processes.
const TAG: &str = "cube-start";
const LOGGER: &str = "start";

/// Why a sandbox did not become ready.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its agent did not do its part.
    #[error(transparent)]
    Agent(#[from] PlaneError),
    /// The template's program has ended instead of listening.
    #[error("the template's start command ended before it listened on port {port}: {last_words}")]
    Ended {
        /// The port.
        port: u16,
        /// The last line of its output.
        last_words: String,
    },
    /// It did not listen in time.
    #[error(
        "nothing listened on port {port} within {} s; the template's start command said: {last_words}",
        READY_LIMIT.as_secs()
    )]
    Late {
        /// The port.
        port: u16,
        /// The last lines of its output.
        last_words: String,
    },
}

/// Starts the template's program, if it has one, and waits until it listens, if it is said where.
pub async fn start(
    sandbox: &Arc<Sandbox>,
    plane: &Plane,
    template: &TemplateConfig,
    image: &ImageConfig,
) -> Result<(), StartError> {
    let words = command(&template.start, image);
    let Some((program, args)) = words.split_first() else {
        return Ok(());
    };
    let job = StartJob {
        command: program.clone(),
        args: args.to_vec(),
        cwd: "/".into(),
        tag: Some(TAG.into()),
        ..StartJob::default()
    };
    let output = plane.start(&job).await?;
    let following = tokio::spawn(follow(sandbox.clone(), output));
    let Some(port) = template.ready_port else {
        return Ok(());
    };
    tokio::select! {
        ready = timeout(READY_LIMIT, listens(sandbox, port)) => {
            ready.map_err(|_| StartError::Late { port, last_words: last_words(sandbox) })
        }
        // What came of it is in the log.
        _ = following => Err(StartError::Ended { port, last_words: last_words(sandbox) }),
    }
}

fn command(start: &StartConfig, image: &ImageConfig) -> Vec<String> {
    match start {
        StartConfig::Nothing => Vec::new(),
        StartConfig::Image => [image.entrypoint.as_slice(), &image.cmd].concat(),
        StartConfig::Command(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
    }
}

async fn listens(sandbox: &Sandbox, port: u16) {
    while ports::open(sandbox.dir(), port).await.is_err() {
        sleep(LOOK_AGAIN).await;
    }
}

/// Puts the program's output into the sandbox's log until its end.
async fn follow(sandbox: Arc<Sandbox>, mut output: JobOutput) {
    loop {
        let (level, text) = match output.next().await {
            Ok(Some(JobEvent::Output(bytes))) => (Level::Info, bytes),
            Ok(Some(JobEvent::Errors(bytes))) => (Level::Error, bytes),
            Ok(Some(JobEvent::End(end))) => (Level::Error, format!("ended: {end:?}").into_bytes()),
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(sandbox = %sandbox.id(), %error, "the start command is not followed any more");
                return;
            }
        };
        let text = String::from_utf8_lossy(&text);
        sandbox.log().add(Moment::now(), level, LOGGER, &text);
    }
}

fn last_words(sandbox: &Sandbox) -> String {
    let lines = sandbox.log().lines();
    let said: Vec<_> = lines.into_iter().rev().take(2).collect();
    let words: Vec<_> = said.into_iter().rev().map(|line| line.message).collect();
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_starts_nothing_the_images_command_or_its_own() {
        let image = ImageConfig {
            entrypoint: vec!["tini".into(), "--".into()],
            cmd: vec!["serve".into()],
            ..ImageConfig::default()
        };
        let words = |start| command(&start, &image).join(" ");
        assert_eq!(words(StartConfig::Nothing), "");
        assert_eq!(words(StartConfig::Image), "tini -- serve");
        assert_eq!(
            words(StartConfig::Command("x; y".into())),
            "/bin/sh -c x; y"
        );
    }
}
