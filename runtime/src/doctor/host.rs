// SPDX-License-Identifier: Apache-2.0
//! The small checks: privileges, cgroups, tun, the guest image.

use std::fs::OpenOptions;

use super::Verdict;
use crate::cgroup;
use crate::config::Config;
use crate::error::chain;
use crate::image::GuestImage;

pub(super) fn root() -> Verdict {
    if rustix::process::geteuid().is_root() {
        Verdict::good("running as root")
    } else {
        Verdict::bad(
            "not running as root",
            "run it with sudo: containerd and its shims are root too",
        )
    }
}

pub(super) fn cgroup() -> Verdict {
    if cgroup::is_v2() {
        Verdict::good("cgroup v2 on /sys/fs/cgroup")
    } else {
        Verdict::warning(
            "no cgroup v2 on /sys/fs/cgroup: machines are not charged to their pod's cgroup",
            "boot the host with systemd.unified_cgroup_hierarchy=1",
        )
    }
}

pub(super) fn tun() -> Verdict {
    // Opening makes no interface; only the ioctl after it would.
    match OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        Ok(_) => Verdict::good("/dev/net/tun can be used"),
        Err(error) => Verdict::warning(
            format!("/dev/net/tun cannot be opened ({error}): containers have no network"),
            "modprobe tun",
        ),
    }
}

pub(super) fn image(config: &Config) -> Verdict {
    match GuestImage::open(&config.image, &config.run) {
        Ok(image) => Verdict::good(format!(
            "kernel {} and agent {} in {}",
            image.manifest.kernel_release,
            image.manifest.agent_version,
            config.image.display()
        )),
        Err(error) => Verdict::bad(
            chain(&error),
            "build it with agent/image/build, or set CUBE_IMAGE to its directory",
        ),
    }
}
