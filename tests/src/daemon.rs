// SPDX-License-Identifier: Apache-2.0
//! One daemon under test: started with a log, awaited, stopped or killed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::bounded::{eventually, tail};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a command, its output appended to `log`, and waits until `is_up`.
    #[track_caller]
    pub fn start(
        name: &'static str,
        command: &Command,
        log: &Path,
        is_up: impl FnMut() -> bool,
    ) -> Self {
        let mut daemon = Self {
            name,
            child: dying_with_us(command, log)
                .unwrap_or_else(|error| panic!("cannot start {name}: {error}")),
            log: log.into(),
        };
        let mut is_up = is_up;
        eventually(&format!("start of {name}"), START_LIMIT, || {
            let status = daemon.child.try_wait().expect("it is our child");
            if let Some(status) = status {
                panic!(
                    "{name} ended with {status} at its start: {}",
                    daemon.log_tail(20)
                );
            }
            is_up()
        });
        daemon
    }

    /// Asks it to end and waits for that.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let name = self.name;
        eventually(&format!("end of {name}"), STOP_LIMIT, || {
            self.child.try_wait().expect("it is our child").is_some()
        });
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.end();
    }

    /// The last lines that it logged.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child has a pid");
        kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    fn end(&mut self) {
        // Both fail only if it has ended and was waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last lines of a log; nothing if there is none.
pub fn log_tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    tail(&String::from_utf8_lossy(&bytes), lines)
}

/// Spawns the command so that it is killed when we are: a daemon would hold mounts and directories.
fn dying_with_us(command: &Command, log: &Path) -> io::Result<Child> {
    let output = File::options().create(true).append(true).open(log)?;
    let mut wrapped = Command::new("setpriv");
    wrapped
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_daemon_is_awaited_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (log, mark) = (dir.path().join("log"), dir.path().join("up"));
        let command = sh(&format!(
            "echo hello; touch {}; exec sleep 60",
            mark.display()
        ));
        let daemon = Daemon::start("sleeper", &command, &log, || mark.exists());
        assert_eq!(daemon.log_tail(1), "hello");
        daemon.stop();
    }

    #[test]
    #[should_panic(expected = "no luck")]
    fn one_that_ends_at_its_start_fails_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        Daemon::start(
            "failing",
            &sh("echo no luck; exit 1"),
            &dir.path().join("log"),
            || false,
        );
    }
}
