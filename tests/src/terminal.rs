// SPDX-License-Identifier: Apache-2.0
//! A terminal with a program on it, and somebody who types.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::bounded::{STEP_LIMIT, eventually};

/// A program on a terminal of its own. Dropping it ends the program.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a program, given as words, on a new terminal of this size.
    #[track_caller]
    pub fn start(
        words: &[String],
        environment: &[(&str, std::ffi::OsString)],
        columns: u16,
        rows: u16,
    ) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal can be made");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave =
            open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("it can be opened");
        let slave = File::from(slave);
        set_size(&master, columns, rows);
        let side = || Stdio::from(slave.try_clone().expect("a descriptor can be copied"));
        // setsid makes it the program's controlling terminal, so that the program hears of a new size.
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .args(words)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("setsid can be run");
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, screen) = (
            master.try_clone().expect("a descriptor can be copied"),
            Arc::clone(&seen),
        );
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO: the last process has left the terminal.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                screen
                    .lock()
                    .expect("no one panics with it")
                    .push_str(&text);
            }
        });
        Self {
            master,
            child,
            seen,
        }
    }

    /// Types a text.
    #[track_caller]
    pub fn type_text(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the terminal takes it");
    }

    /// Makes the window another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        set_size(&self.master, columns, rows);
    }

    /// All that was shown so far.
    pub fn screen(&self) -> String {
        self.seen.lock().expect("no one panics with it").clone()
    }

    /// Waits until a text is shown.
    #[track_caller]
    pub fn await_text(&self, text: &str) {
        let what = format!("\"{text}\" on the terminal");
        let begun = std::time::Instant::now();
        while !self.screen().contains(text) {
            assert!(
                begun.elapsed() < STEP_LIMIT,
                "{what}: not in time; shown: {:?}",
                self.screen()
            );
            thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Waits for the program's end and gives its exit code.
    #[track_caller]
    pub fn await_end(mut self) -> i32 {
        let mut status = None;
        eventually("end of the terminal's program", STEP_LIMIT, || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        status
            .and_then(|status| status.code())
            .expect("setsid is not killed")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_seen_and_sizes_arrive() {
        let words = [
            "sh",
            "-c",
            "stty size; read line; stty size; echo got $line; exit 3",
        ]
        .map(String::from);
        let mut terminal = Terminal::start(&words, &[], 91, 17);
        terminal.await_text("17 91");
        terminal.resize(92, 18);
        terminal.type_text("hello\n");
        terminal.await_text("18 92");
        terminal.await_text("got hello");
        assert_eq!(terminal.await_end(), 3);
    }
}
