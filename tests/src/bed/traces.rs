// SPDX-License-Identifier: Apache-2.0
//! What containers leave on a bed: where to look for it, what the logs say, how to remove it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Bed, Runtime};
use crate::ctr::NAMESPACE;
use crate::daemon::log_tail;

impl Bed {
    /// Directories in which nothing may remain of a container, with how deep to look.
    pub fn watched(&self) -> Vec<(PathBuf, usize)> {
        let tasks = Path::new("containerd/io.containerd.runtime.v2.task").join(NAMESPACE);
        let mut dirs = vec![
            (self.sandboxes(), 3),
            (self.run.join(&tasks), 1),
            (self.state.join(&tasks), 1),
            (self.state.join("snapshotter"), 4),
        ];
        if self.runtime == Runtime::Cube {
            // A killed shim of runc's leaves its socket; ours may not.
            dirs.push(("/run/containerd/s".into(), 1));
        }
        dirs
    }

    /// The ends of all logs, for a failed test.
    pub fn logs(&self) -> String {
        let mut logs = vec![
            self.run.join("containerd.log"),
            self.run.join("snapshotter.log"),
            self.run.join("small.log"),
        ];
        for sandbox in fs::read_dir(self.sandboxes())
            .into_iter()
            .flatten()
            .flatten()
        {
            logs.extend(["vmm.log", "serial.log"].map(|name| sandbox.path().join(name)));
        }
        let ends = logs
            .iter()
            .map(|path| (path, log_tail(path, 30)))
            .filter(|(_, end)| !end.is_empty());
        ends.map(|(path, end)| format!("--- {}\n{end}\n", path.display()))
            .collect()
    }

    /// After a test failed: removes whatever there is, so that the next starts afresh.
    pub fn sweep(&mut self) {
        self.resident = None;
        for (list, remove) in [
            (["task", "ls", "-q"], &["task", "rm", "-f"][..]),
            (["container", "ls", "-q"], &["container", "rm"][..]),
        ] {
            for id in self.ctr(&list).run().out().lines() {
                self.ctr(remove).args([id]).run(); // as far as it goes: the failure has been reported
            }
        }
        let snapshotter = self.runtime.snapshotter();
        let list = self
            .ctr(&["snapshot", "--snapshotter", snapshotter, "ls"])
            .run()
            .out();
        let active = list
            .lines()
            .filter(|line| line.contains("Active"))
            .filter_map(|line| line.split(' ').next());
        for key in active {
            self.ctr(&["snapshot", "--snapshotter", snapshotter, "rm", key])
                .run();
        }
    }
}
