// SPDX-License-Identifier: Apache-2.0
//! What tests ask of containerd's command-line client, beyond single commands.

use std::fs;

use crate::bed::Bed;
use crate::bounded::{Ended, Program, STEP_LIMIT, eventually};

/// The containerd namespace of all tests. Host cgroups are named after it.
pub const NAMESPACE: &str = "cube-e2e";
/// A shell and its tools.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

impl Bed {
    /// Our client on this containerd.
    pub fn ctr(&self, args: &[&str]) -> Program {
        let ctr = Program::new(self.series.programs().join("ctr")).env("PATH", self.path());
        ctr.args(["--address"])
            .args([self.address()])
            .args(["--namespace", NAMESPACE])
            .args(args)
    }

    /// `ctr run` with the runtime and snapshotter under test.
    pub fn run(&self, flags: &[&str], image: &str, id: &str, command: &[&str]) -> Program {
        self.run_from(self.runtime.snapshotter(), flags, image, id, command)
    }

    /// The same with another snapshotter.
    pub fn run_from(
        &self,
        snapshotter: &str,
        flags: &[&str],
        image: &str,
        id: &str,
        command: &[&str],
    ) -> Program {
        let program = self.ctr(&[
            "run",
            "--runtime",
            self.runtime.name(),
            "--snapshotter",
            snapshotter,
        ]);
        program.args(flags).args([image, id]).args(command)
    }

    /// Runs a shell script in a busybox container that is removed afterwards.
    #[track_caller]
    pub fn sh(&mut self, about: &str, flags: &[&str], script: &str) -> Ended {
        let id = self.id(about);
        self.run(
            &[&["--rm"], flags].concat(),
            BUSYBOX,
            &id,
            &["sh", "-c", script],
        )
        .run()
    }

    /// Starts a container in the background that does nothing; it has to be removed.
    #[track_caller]
    pub fn sleeper(&mut self, about: &str, flags: &[&str]) -> String {
        let id = self.id(about);
        self.run(
            &[&["-d"], flags].concat(),
            BUSYBOX,
            &id,
            &["sleep", "100000"],
        )
        .run()
        .succeeded();
        id
    }

    /// Runs a shell script as a further process of a container.
    pub fn exec(&mut self, id: &str, script: &str) -> Program {
        let exec_id = self.id("exec");
        self.ctr(&[
            "task",
            "exec",
            "--exec-id",
            &exec_id,
            id,
            "sh",
            "-c",
            script,
        ])
    }

    /// The process on the host that stands for a task.
    #[track_caller]
    pub fn task_pid(&self, id: &str) -> i32 {
        let list = self.ctr(&["task", "ls"]).run().succeeded().out();
        let words = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let pid = words
            .into_iter()
            .find(|words| words.first() == Some(&id))
            .and_then(|words| words[1].parse().ok());
        pid.unwrap_or_else(|| panic!("no process of {id} in: {list}"))
    }

    /// Kills the first process of a container and removes task, container and snapshot.
    #[track_caller]
    pub fn kill_and_delete(&self, id: &str) {
        self.ctr(&["task", "kill", "-s", "SIGKILL", id])
            .run()
            .succeeded();
        self.await_state(id, "STOPPED");
        self.delete_task(id, 137);
        self.ctr(&["container", "delete", id]).run().succeeded();
    }

    /// Removes a stopped task, whose process has to have ended with this code.
    #[track_caller]
    pub fn delete_task(&self, id: &str, code: i32) {
        let said = self.ctr(&["task", "delete", id]).run().succeeded().err();
        let told = if code == 0 {
            String::new()
        } else {
            format!("exit code {code}")
        };
        assert!(
            said.contains(&told),
            "{id} should have ended with {code}, but: {said}"
        );
    }

    /// The shim of a container: its server has the container's name on its command line.
    #[track_caller]
    pub fn shim_pid(&self, id: &str) -> i32 {
        let wanted = format!("\0-id\0{id}\0");
        let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
        let mut pids = processes.filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned();
            let is_shim = command.contains("containerd-shim") && command.contains(&wanted);
            let name = entry.file_name();
            is_shim.then(|| name.to_str()?.parse().ok()).flatten()
        });
        pids.next().unwrap_or_else(|| panic!("no shim of {id}"))
    }

    /// Waits until the list of tasks shows this one so.
    #[track_caller]
    pub fn await_state(&self, id: &str, state: &str) {
        eventually(&format!("{id} {state}"), STEP_LIMIT, || {
            self.task_state(id) == state
        });
    }

    /// The state of a task in the list of tasks; empty if it is not there.
    pub fn task_state(&self, id: &str) -> String {
        let list = self.ctr(&["task", "ls"]).run().succeeded().out();
        let line = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = line.into_iter().find(|words| words.first() == Some(&id));
        found
            .and_then(|words| words.get(2).map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Removes every snapshot, children before their parents.
    #[track_caller]
    pub fn remove_snapshots(&self, snapshotter: &str) {
        let flag = ["snapshot", "--snapshotter", snapshotter];
        eventually("removal of all snapshots", STEP_LIMIT, || {
            let list = self.ctr(&flag).args(["ls"]).run().succeeded().out();
            let keys: Vec<_> = list
                .lines()
                .skip(1)
                .filter_map(|line| line.split(' ').next())
                .collect();
            for key in &keys {
                self.ctr(&flag).args(["rm", key]).run(); // a parent fails until its children are gone
            }
            keys.is_empty()
        });
    }
}
