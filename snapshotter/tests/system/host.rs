// SPDX-License-Identifier: Apache-2.0
//! What the host can do, and what tests do to it and undo.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;

/// Says why and returns false if this host cannot run these tests.
pub fn is_able() -> bool {
    let lacks = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new("/dev/loop-control").exists() {
        "loop devices"
    } else if !has("mkfs.xfs") || !has("mkfs.ext4") {
        "xfsprogs and e2fsprogs"
    } else {
        return true;
    };
    eprintln!("skipped: this test needs {lacks}");
    false
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    let script = format!("PATH=$PATH:/usr/sbin:/sbin command -v {program}");
    run("sh", ["-c", &script]).is_ok()
}

/// Runs a program; its output, or all that it said when it failed.
pub fn run<I, S>(program: &str, arguments: I) -> Result<String, String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!(
            "{program}: {}: {}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        )),
    }
}

/// Mount points at or below `dir`, deepest first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect();
    found.sort();
    found.reverse();
    found
}

/// Loop devices bound to files below `dir`.
pub fn loops_below(dir: &Path) -> Vec<PathBuf> {
    let blocks = fs::read_dir("/sys/block").unwrap();
    blocks
        .filter_map(|entry| {
            let backing = entry.unwrap().path().join("loop/backing_file");
            let file = PathBuf::from(fs::read_to_string(backing).ok()?.trim_end());
            file.starts_with(dir).then_some(file)
        })
        .collect()
}

/// Waits until at most `count` loop devices are bound below `dir`. A container that starts meanwhile,
/// whoever's, begins with a copy of all mounts and keeps their devices for some milliseconds.
pub fn settles_to_loops(dir: &Path, count: usize) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while loops_below(dir).len() > count {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A mounted file system, unmounted when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts as containerd would: mount(8)'s `loop` makes an autoclear device, too.
    pub fn new(kind: &str, source: &str, options: &[String], on: &Path) -> Result<Self, String> {
        fs::create_dir_all(on).unwrap();
        let options = options.join(",");
        let on = on.to_owned();
        run(
            "mount",
            [
                "-t".as_ref(),
                kind.as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                source.as_ref(),
                on.as_os_str(),
            ],
        )?;
        Ok(Self(on))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

pub fn unmount(point: &Path) {
    if rustix::mount::unmount(point, UnmountFlags::empty()).is_err() {
        rustix::mount::unmount(point, UnmountFlags::DETACH).ok();
    }
}
