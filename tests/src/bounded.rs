// SPDX-License-Identifier: Apache-2.0
//! Nothing waits for ever: programs with a time limit, conditions with a deadline.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Long enough for any one step where everything is emulated and the host is busy besides, short
/// enough for a hang to be noticed.
pub const STEP_LIMIT: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);

/// A program to be run to its end.
pub struct Program {
    command: Command,
    shown: String,
    input: Vec<u8>,
    limit: Duration,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    shown: String,
    status: ExitStatus,
    /// All that it wrote to its standard output.
    pub stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Program {
    /// A program, found on the `PATH` of the tests.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        let shown = name.as_ref().to_string_lossy().into_owned();
        let shown = shown.rsplit('/').next().unwrap_or_default().into();
        Self {
            command: Command::new(name),
            shown,
            input: Vec::new(),
            limit: STEP_LIMIT,
        }
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.shown += &format!(" {}", arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads; by default nothing.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Another limit than [`STEP_LIMIT`].
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Program and arguments as words, to be run in another way.
    pub fn words(&self) -> Vec<String> {
        let program = std::iter::once(self.command.get_program());
        program
            .chain(self.command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    /// Runs it to its end. One that does not end in time is killed with all its children.
    #[track_caller]
    pub fn run(self) -> Ended {
        self.start().wait()
    }

    /// Starts it; the limit counts from here.
    #[track_caller]
    pub fn start(mut self) -> Running {
        self.command.process_group(0);
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot run {}: {error}", self.shown),
        };
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = self.input;
        thread::spawn(move || {
            // A program may end, or close its input, without having read all of it.
            stdin.write_all(&input).ok();
        });
        let stdout = collect(child.stdout.take().expect("it is piped"));
        let stderr = collect(child.stderr.take().expect("it is piped"));
        Running {
            child,
            stdout,
            stderr,
            shown: self.shown,
            begun: Instant::now(),
            limit: self.limit,
        }
    }
}

/// A program on its way.
pub struct Running {
    child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
    shown: String,
    begun: Instant,
    limit: Duration,
}

impl Running {
    /// Waits for its end, within the limit.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if self.begun.elapsed() > self.limit {
                let so_far = self.kill();
                panic!(
                    "{} did not end within {} s; it said: {so_far}",
                    self.shown,
                    self.limit.as_secs()
                );
            }
            thread::sleep(POLL);
        };
        // Children that hold the streams open are not waited for beyond a moment.
        let rest = Duration::from_secs(10);
        Ended {
            took: self.begun.elapsed(),
            stdout: self.stdout.recv_timeout(rest).unwrap_or_default(),
            stderr: self.stderr.recv_timeout(rest).unwrap_or_default(),
            status,
            shown: self.shown,
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    fn kill(&mut self) -> String {
        let group = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child has a pid");
        // It may end by itself in this very moment.
        kill_process_group(group, Signal::KILL).ok();
        self.child.wait().ok();
        let short = Duration::from_secs(1);
        let said = [
            self.stdout.recv_timeout(short),
            self.stderr.recv_timeout(short),
        ];
        said.into_iter()
            .flatten()
            .map(|bytes| tail(&String::from_utf8_lossy(&bytes), 5))
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is; the receiver may have given up waiting.
        stream.read_to_end(&mut bytes).ok();
        sender.send(bytes).ok();
    });
    receiver
}

impl Ended {
    /// The exit code, or 128 + n for a death by signal n.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// What it wrote to standard output, as text without the white space around it.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().into()
    }

    /// The same of standard error.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().into()
    }

    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let (found, out, err) = (self.code(), tail(&self.out(), 15), tail(&self.err(), 15));
        assert!(
            found == code,
            "{}: exit code {found}, not {code}\nstdout: {out}\nstderr: {err}",
            self.shown
        );
        self
    }

    /// Fails the test unless it ended well.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.expect_code(0)
    }

    /// Fails the test unless it failed and said each of these words, in whatever case.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        let err = self.err();
        assert!(
            self.code() != 0,
            "{} should have failed; stdout: {}",
            self.shown,
            tail(&self.out(), 15)
        );
        let missing: Vec<_> = words
            .iter()
            .filter(|word| !err.to_lowercase().contains(&word.to_lowercase()))
            .collect();
        assert!(
            missing.is_empty(),
            "{} did not say {missing:?} but: {err}",
            self.shown
        );
        self
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Waits until something is so, and fails the test if it is not in time.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < limit,
            "{what}: not within {} s",
            limit.as_secs()
        );
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new("sh").args(["-c", script])
    }

    fn panic_text(run: impl FnOnce() + std::panic::UnwindSafe) -> String {
        let panic = std::panic::catch_unwind(run).unwrap_err();
        *panic.downcast::<String>().unwrap()
    }

    #[test]
    fn streams_and_exit_codes_come_back() {
        let ended = sh("cat; echo e >&2; exit 7")
            .input("in")
            .run()
            .expect_code(7);
        assert_eq!((ended.out(), ended.err()), ("in".into(), "e".into()));
        sh("kill -TERM $$").run().expect_code(143);
    }

    #[test]
    fn a_wrong_code_fails_with_what_was_said() {
        let text = panic_text(|| {
            sh("echo why >&2; exit 3").run().succeeded();
        });
        assert!(
            text.contains("exit code 3, not 0") && text.contains("stderr: why"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_needs_its_words() {
        sh("echo No Such File >&2; exit 1")
            .run()
            .refused(&["no such file"]);
        panic_text(|| {
            sh("echo other >&2; exit 1")
                .run()
                .refused(&["no such file"]);
        });
        panic_text(|| {
            sh("echo no such file >&2").run().refused(&["no such file"]);
        });
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let begun = Instant::now();
        let text = panic_text(|| {
            sh("echo started; sleep 60 & sleep 60")
                .limit(Duration::from_millis(300))
                .run();
        });
        assert!(
            text.contains("did not end within") && text.contains("started"),
            "{text}"
        );
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_condition_that_never_comes_fails_in_time() {
        eventually("at once", Duration::ZERO, || true);
        let text = panic_text(|| eventually("the sun", Duration::from_millis(100), || false));
        assert!(text.contains("the sun: not within"), "{text}");
    }
}
