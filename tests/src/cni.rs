// SPDX-License-Identifier: Apache-2.0
//! The network of a client, in a network namespace of its own: what `ctr --cni` plugs containers into.
//!
//! The client and its plug-ins run in there, with their own `/etc/cni` and `/opt/cni`. So a test needs no
//! bridge, no address and no configuration on the host, and all of it goes with the namespace.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::bounded::Program;
use crate::series::cache;

/// Runs the rest of its arguments where `/opt/cni/bin` and `/etc/cni/net.d` are the first two.
const STAGE: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs none /opt; mkdir -p /opt/cni; ln -s "$1" /opt/cni/bin
mount -t tmpfs none /etc; mkdir -p /etc/cni; ln -s "$2" /etc/cni/net.d
shift 2; exec "$@""#;

/// A network namespace that has a name.
pub struct Netns(String);

impl Netns {
    /// Makes an empty one.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        ip(&["netns", "add", name]);
        Self(name.into())
    }

    /// Where clients find it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    /// Runs `ip` in it.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", &self.0], args].concat())
    }

    /// Makes a pair of interfaces, one end here and the other in another one, both up.
    #[track_caller]
    pub fn plug(&self, name: &str, there: &Self, peer: &str) {
        let pair = ["link", "add", name, "type", "veth", "peer", "name", peer];
        self.ip(&[&pair[..], &["netns", &there.0]].concat());
        self.ip(&["link", "set", name, "up"]);
        there.ip(&["link", "set", peer, "up"]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        Program::new("ip").args(["netns", "del", &self.0]).run();
    }
}

/// Runs `ip`, which has to succeed.
#[track_caller]
fn ip(args: &[&str]) -> String {
    Program::new("ip").args(args).run().succeeded().out()
}

/// A network of plug-ins.
pub struct Cni {
    netns: Netns,
    /// Configuration and the plug-ins' own notes.
    dir: PathBuf,
}

impl Cni {
    /// The bridge that most people have: `10.77.0.0/24` and `fd77::/64`, the first address of each its
    /// own, an MTU of 1400.
    #[track_caller]
    pub fn bridge(bed: &mut Bed) -> Self {
        let ranges = json!([[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]);
        Self::new(bed, "bridge", &ranges)
    }

    /// The same with an address for a single container.
    #[track_caller]
    pub fn bridge_for_one(bed: &mut Bed) -> Self {
        let range = json!({
            "subnet": "10.77.0.0/24", "rangeStart": "10.77.0.9", "rangeEnd": "10.77.0.9",
        });
        Self::new(bed, "bridge", &json!([[range]]))
    }

    /// A configuration that names a plug-in that is not there.
    #[track_caller]
    pub fn without_plug_in(bed: &mut Bed) -> Self {
        Self::new(bed, "no-such-plug-in", &json!([]))
    }

    fn new(bed: &mut Bed, plug_in: &str, ranges: &Value) -> Self {
        let name = bed.id("cni");
        let dir = bed.scratch(&name);
        let config = json!({
            "cniVersion": "0.4.0",
            "name": "e2e",
            "plugins": [{
                "type": plug_in,
                "bridge": "e2e0",
                "isDefaultGateway": true,
                "mtu": 1400,
                "ipam": {"type": "host-local", "dataDir": dir.join("ipam"), "ranges": ranges},
            }],
        });
        fs::create_dir_all(dir.join("net.d")).expect("the bed has a directory");
        let file = dir.join("net.d/10-e2e.conflist");
        fs::write(file, config.to_string()).expect("the bed's disk has room");
        Self {
            netns: Netns::new(&name),
            dir,
        }
    }

    /// Where its bridge is.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Has a client of this bed run here.
    pub fn client(&self, bed: &Bed, client: &Program) -> Program {
        let netns = format!("--net={}", self.netns.path().display());
        let stage = ["unshare", "--mount", "sh", "-c", STAGE, "stage"];
        Program::new("nsenter")
            .env("PATH", bed.path())
            .args([netns.as_str()])
            .args(stage)
            .args([cache().join("cni/current/bin"), self.dir.join("net.d")])
            .args(client.words())
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok(); // what is left of it goes with the bed
    }
}
