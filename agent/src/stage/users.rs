// SPDX-License-Identifier: Apache-2.0
//! HOME for a process whose environment does not set it, from the container's /etc/passwd, as runc does.
//! Ids are numbers already: clients look names up themselves.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, OFlags, fstat};

use super::root::Root;

/// Read of /etc/passwd, which belongs to the container. The largest seen in images are a few kilobytes.
const MAX_PASSWD: u64 = 1 << 20;

/// Adds HOME unless it is there.
pub fn add_home(root: &Root, env: &mut Vec<String>, uid: u32) {
    if env.iter().any(|entry| entry.starts_with("HOME=")) {
        return;
    }
    let home = passwd(root).and_then(|passwd| home(&passwd, uid));
    env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
}

fn passwd(root: &Root) -> Option<String> {
    // Without O_NONBLOCK a FIFO of that name would hold this process for ever.
    let fd = root
        .find(Path::new("/etc/passwd"), OFlags::RDONLY | OFlags::NONBLOCK)
        .ok()?;
    if FileType::from_raw_mode(fstat(&fd).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(fd)
        .take(MAX_PASSWD)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn home(passwd: &str, uid: u32) -> Option<String> {
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(uid))
        .and_then(|fields| fields.get(5).copied().map(str::to_owned))
        .filter(|home| !home.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_of_a_user_is_the_sixth_field_of_its_line() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nnobody:x:65534:65534::/nonexistent:\nx:x:7:7:::\n";
        for (uid, expected) in [
            (0, Some("/root")),
            (65534, Some("/nonexistent")),
            (7, None),
            (8, None),
        ] {
            assert_eq!(home(passwd, uid).as_deref(), expected, "{uid}");
        }
    }
}
