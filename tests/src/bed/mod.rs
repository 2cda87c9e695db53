// SPDX-License-Identifier: Apache-2.0
//! A test bed: containerd of one series and our snapshotter, in directories of their own.
//!
//! Beside whatever runs on the host: own sockets, own state, own containerd namespace. Only the
//! directory of the shims' sockets, `/run/containerd/s`, is the same for every containerd of a host.

mod runtime;
mod traces;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

pub use runtime::{Runtime, Settings};

use crate::bounded::{STEP_LIMIT, eventually};
use crate::ctr::BUSYBOX;
use crate::daemon::Daemon;
use crate::series::{Series, guest_image, image_archive, our_programs};

const STATE: &str = "/var/lib/cube/e2e";
/// All beds share them, as containerds of one host do: the first start of all makes the template.
const TEMPLATES: &str = "/var/lib/cube/e2e/templates";
/// What would win over the bed's configuration file.
const OVERRIDES: [&str; 6] = [
    "CUBE_IMAGE",
    "CUBE_RUN",
    "CUBE_TEMPLATES",
    "CUBE_VMM",
    "CUBE_COLD",
    "CUBE_PREFAULT",
];
/// Short, because socket paths are.
const RUN: &str = "/run/cube-e2e";
/// The snapshotter plugin that [`Bed::small_snapshotter`] answers for.
pub const SMALL: &str = "cube-small";

/// How a daemon is brought to its end.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// As an administrator does it.
    Stop,
    /// As a crash does it.
    Kill,
}

/// A containerd and a snapshotter that tests can use. Dropping it kills both.
#[derive(Debug)]
pub struct Bed {
    /// Which containerd.
    pub series: Series,
    /// Which runtime its containers get.
    pub runtime: Runtime,
    state: PathBuf,
    run: PathBuf,
    containerd: Option<Daemon>,
    snapshotter: Option<Daemon>,
    imported: BTreeSet<(String, String)>,
    ids: u32,
    resident: Option<String>,
}

impl Bed {
    /// Starts both daemons on empty directories; `name` tells beds of the same series apart.
    #[track_caller]
    pub fn start(series: Series, runtime: Runtime, name: &str) -> Self {
        let mut bed = Self {
            series,
            runtime,
            state: Path::new(STATE).join(name),
            run: Path::new(RUN).join(name),
            containerd: None,
            snapshotter: None,
            imported: BTreeSet::new(),
            ids: 0,
            resident: None,
        };
        for dir in [&bed.state, &bed.run] {
            fs::remove_dir_all(dir).ok(); // of an earlier run that was killed
            fs::create_dir_all(dir)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        }
        if runtime == Runtime::Cube {
            copy_image(&bed.image());
        }
        bed.write(
            "containerd.toml",
            &runtime::containerd_config(&bed.state, &bed.run),
        );
        bed.set(&Settings::default());
        if runtime.snapshotter() == "cube" {
            bed.start_snapshotter();
            let dir = bed.snapshots();
            fs::create_dir(&dir)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        }
        bed.start_containerd();
        bed.import("busybox", runtime.snapshotter());
        bed
    }

    /// Where snapshots of sandboxes are: on the file system of the disks.
    fn snapshots(&self) -> PathBuf {
        self.state.join("snapshotter/store/sandboxes")
    }

    /// A container name that was not used before.
    pub fn id(&mut self, about: &str) -> String {
        self.ids += 1;
        format!("{about}-{}", self.ids)
    }

    /// Runs `body` with other settings for the shims that start meanwhile.
    pub fn with_settings<T>(
        &mut self,
        settings: &Settings,
        body: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.set(settings);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(self)));
        self.set(&Settings::default());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn set(&self, settings: &Settings) {
        let (own, run) = (self.image(), self.sandboxes_parent());
        let image = settings.image.as_ref().unwrap_or(&own).display();
        self.write(
            "config.toml",
            &format!(
                "image = \"{image}\"\nrun = \"{run}\"\ntemplates = \"{TEMPLATES}\"\nsnapshots = \"{snapshots}\"\nboot_timeout_s = {boot}\n{more}\n",
                run = run.display(),
                snapshots = self.snapshots().display(),
                boot = settings.boot_timeout.as_secs(),
                more = settings.more
            ),
        );
    }

    /// Ends containerd and starts it again on the same directories.
    #[track_caller]
    pub fn restart_containerd(&mut self, end: End) {
        self.restart_containerd_after(end, Duration::ZERO);
    }

    /// The same with a time in between in which there is none.
    #[track_caller]
    pub fn restart_containerd_after(&mut self, end: End, away: Duration) {
        finish(self.containerd.take(), end);
        thread::sleep(away);
        self.start_containerd();
    }

    /// Ends the snapshotter and starts it again on the same directories.
    #[track_caller]
    pub fn restart_snapshotter(&mut self, end: End) {
        finish(self.snapshotter.take(), end);
        self.start_snapshotter();
        self.await_snapshotter(self.runtime.snapshotter());
    }

    /// Imports an image archive for a snapshotter, once.
    #[track_caller]
    pub fn import(&mut self, name: &str, snapshotter: &str) {
        if !self.imported.insert((name.into(), snapshotter.into())) {
            return;
        }
        // From 1.7 on an import goes through a service that unpacks for one snapshotter only, unless --local.
        let local: &[&str] = if self.series == Series::V1_6 {
            &[]
        } else {
            &["--local"]
        };
        let archive = image_archive(name);
        self.ctr(&["image", "import"])
            .args(local)
            .args(["--snapshotter", snapshotter])
            .args([archive])
            .run()
            .succeeded();
    }

    /// A snapshotter of its own on a directory of the caller's choice, under the plugin name [`SMALL`].
    #[track_caller]
    pub fn small_snapshotter(&self, root: &Path) -> Daemon {
        let daemon = self.snapshotter_on(root, &self.run.join("small.sock"), "small.log");
        self.await_snapshotter(SMALL);
        daemon
    }

    /// The container that is started once and lives while the bed does, for tests that change nothing in it.
    #[track_caller]
    pub fn resident(&mut self) -> String {
        if let Some(id) = &self.resident {
            return id.clone();
        }
        let id = self.id("resident");
        self.run(&["-d"], BUSYBOX, &id, &["sleep", "100000"])
            .run()
            .succeeded();
        self.resident = Some(id.clone());
        id
    }

    /// Ends the resident, if there is one.
    #[track_caller]
    pub fn dismiss_resident(&mut self) {
        if let Some(id) = self.resident.take() {
            self.kill_and_delete(&id);
        }
    }

    /// Where our shims keep what belongs to a sandbox.
    pub fn sandboxes(&self) -> PathBuf {
        self.sandboxes_parent().join("sandboxes")
    }

    /// A directory on the bed's disk for one test.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// The guest image of this bed: a copy, so that a new build does not change it under a running test.
    pub fn image(&self) -> PathBuf {
        self.state.join("image")
    }

    /// Our programs' configuration file, as `CUBE_CONFIG` names it.
    pub fn config(&self) -> PathBuf {
        self.run.join("config.toml")
    }

    /// containerd's socket.
    pub fn address(&self) -> PathBuf {
        self.run.join("containerd.sock")
    }

    /// The `PATH` of the daemons: our programs, then those of this series.
    pub fn path(&self) -> OsString {
        let before = [our_programs(), self.series.programs()];
        let rest = env::var_os("PATH").unwrap_or_default();
        env::join_paths(before.into_iter().chain(env::split_paths(&rest)))
            .expect("no colon in our paths")
    }

    fn sandboxes_parent(&self) -> PathBuf {
        self.run.join("cube")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.run.join(name);
        fs::write(&path, text)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    fn start_snapshotter(&mut self) {
        let (root, address) = (
            self.state.join("snapshotter"),
            self.run.join("snapshotter.sock"),
        );
        self.snapshotter = Some(self.snapshotter_on(&root, &address, "snapshotter.log"));
    }

    #[track_caller]
    fn snapshotter_on(&self, root: &Path, address: &Path, log: &str) -> Daemon {
        fs::remove_file(address).ok(); // of an earlier one that was killed
        let mut command = Command::new(our_programs().join("cube-snapshotter"));
        command
            .arg("--root")
            .arg(root)
            .arg("--address")
            .arg(address);
        Daemon::start("cube-snapshotter", &command, &self.run.join(log), || {
            address.exists()
        })
    }

    /// containerd tries again to reach a snapshotter only after a pause that grows, and fails what comes
    /// meanwhile. A list of no snapshots it answers alone: only making one shows that it gets through.
    #[track_caller]
    fn await_snapshotter(&self, name: &str) {
        let probe = |verb| {
            self.ctr(&["snapshot", "--snapshotter", name, verb, "probe"])
                .run()
        };
        eventually(&format!("answer of {name}"), STEP_LIMIT, || {
            probe("prepare").code() == 0
        });
        probe("rm").succeeded();
    }

    #[track_caller]
    fn start_containerd(&mut self) {
        let mut command = Command::new(self.series.programs().join("containerd"));
        command
            .arg("--config")
            .arg(self.run.join("containerd.toml"));
        command
            .env("PATH", self.path())
            .env("CUBE_CONFIG", self.config());
        for name in OVERRIDES {
            command.env_remove(name);
        }
        let log = self.run.join("containerd.log");
        let answers = || self.address().exists() && self.ctr(&["version"]).run().code() == 0;
        let daemon = Daemon::start("containerd", &command, &log, answers);
        self.containerd = Some(daemon);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // containerd first: it uses the other. Then what they kept can go.
        drop(self.containerd.take());
        drop(self.snapshotter.take());
        for dir in [&self.state, &self.run] {
            fs::remove_dir_all(dir).ok(); // a mount that a failed test left keeps it; it goes with our mount namespace
        }
    }
}

#[track_caller]
fn copy_image(target: &Path) {
    fs::create_dir(target).expect("the bed has a directory");
    for entry in fs::read_dir(guest_image())
        .expect("there is an image")
        .flatten()
    {
        fs::copy(entry.path(), target.join(entry.file_name())).expect("an image is three files");
    }
}

#[track_caller]
fn finish(daemon: Option<Daemon>, end: End) {
    let daemon = daemon.expect("it was started with the bed");
    match end {
        End::Stop => daemon.stop(),
        End::Kill => daemon.kill(),
    }
}
