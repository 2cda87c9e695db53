// SPDX-License-Identifier: Apache-2.0
//! Who may use whom (`deps-are-architecture`, `no-runtime-in-the-vmm`, `kept-out`).
//!
//! The tables are the rule: an edge between our crates that is not in [`OURS`] is a change of the
//! design and is made there, with a reason in DECISIONS.md. The foreign bans are about what a program
//! *links*, so they follow normal dependencies all the way down and leave build and test code alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Finding;

/// Crate, and the crates of ours that it may use. `*`: all.
const OURS: [(&str, &[&str]); 15] = [
    ("cube-protocol", &[]),
    ("cube-snapshot", &[]),
    ("cube-hv", &[]),
    ("cube-virtio", &[]),
    ("cube-vmm", &["cube-hv", "cube-virtio", "cube-snapshot"]),
    ("cube-agent", &["cube-protocol"]),
    (
        "cube-runtime",
        &["cube-net", "cube-protocol", "cube-snapshot", "cube-vmm"],
    ),
    ("containerd-shim-cube-v1", &["cube-runtime"]),
    ("cube-containerd", &[]),
    ("cube-cli", &["cube-containerd", "cube-runtime", "cube-vmm"]),
    ("cube-e2b", &["cube-containerd", "cube-runtime"]),
    ("cube-snapshotter", &[]),
    ("cube-net", &[]),
    ("cube-tests", &["*"]),
    ("cube-examples", &["*"]),
];

/// What an HTTP or TLS stack is made of.
const HTTP: [&str; 9] = [
    "tonic",
    "hyper",
    "axum",
    "h2",
    "reqwest",
    "openssl",
    "openssl-sys",
    "rustls",
    "native-tls",
];
/// An asynchronous runtime, or a message format that brings one.
const ASYNC: [&str; 6] = ["tokio", "async-std", "smol", "protobuf", "prost", "ttrpc"];

/// Crate, the rule, and what it may not link, however indirectly.
const BANS: [(&str, &str, &[&str]); 12] = [
    ("cube-hv", "no-runtime-in-the-vmm", &ASYNC),
    ("cube-virtio", "no-runtime-in-the-vmm", &ASYNC),
    ("cube-snapshot", "no-runtime-in-the-vmm", &ASYNC),
    ("cube-vmm", "no-runtime-in-the-vmm", &ASYNC),
    ("cube-hv", "kept-out", &HTTP),
    ("cube-virtio", "kept-out", &HTTP),
    ("cube-vmm", "kept-out", &HTTP),
    ("cube-agent", "kept-out", &HTTP),
    ("cube-net", "kept-out", &HTTP),
    ("cube-runtime", "kept-out", &HTTP),
    ("containerd-shim-cube-v1", "kept-out", &HTTP),
    ("cube-snapshotter", "kept-out", &["ttrpc"]),
];

/// Crates that nobody here uses: name, the first version that is out (empty: all), why.
const KEPT_OUT: [(&str, &str, &str); 22] = [
    ("aya", "0.15", "its compiler is not the stable one"),
    ("bincode", "", "the project has ended"),
    ("bitcode", "", "no stable format for files on disk"),
    (
        "cgroups-rs",
        "",
        "brings D-Bus; cgroup files are written directly",
    ),
    (
        "containerd-shim",
        "",
        "speaks one dialect per version and swallows SIGTERM",
    ),
    ("containerd-snapshots", "", "brings a second HTTP stack"),
    ("fjall", "", "more than the snapshotter needs"),
    ("fuse-backend-rs", "", "pins an older vm-memory"),
    ("kani", "", "fetches its own compiler"),
    ("libc", "1.0", "alpha"),
    ("libseccomp", "", "binds a C library"),
    ("prometheus", "", "prometheus-client is the one"),
    ("protobuf", "4.0", "another crate than the one ttrpc needs"),
    (
        "reflink-copy",
        "",
        "copies in silence where it cannot clone",
    ),
    ("rkyv", "", "no stable format for files on disk"),
    ("sled", "", "alpha"),
    ("testcontainers", "", "needs dockerd"),
    ("userfaultfd", "", "needs libclang to build"),
    ("versionize", "", "given up by its makers"),
    ("virtiofsd", "", "pins an older vm-memory"),
    ("wincode", "", "no stable format for files on disk"),
    ("zbus", "", "no D-Bus here"),
];

/// Cargo's view of the workspace.
#[derive(Debug, Default)]
pub struct Crates {
    /// Members of the workspace and the names of all their direct dependencies, of every kind.
    members: BTreeMap<String, BTreeSet<String>>,
    /// Package and its version.
    versions: BTreeSet<(String, String)>,
    /// Package name and the names that it links.
    links: BTreeMap<String, BTreeSet<String>>,
}

impl Crates {
    /// Asks cargo, without a network.
    pub fn load(root: &Path) -> io::Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1", "--locked", "--offline"])
            .arg("--filter-platform=x86_64-unknown-linux-gnu")
            .current_dir(root)
            .output()?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!(
                "cargo metadata: {}",
                reason.trim()
            )));
        }
        Ok(Self::parse(&serde_json::from_slice(&output.stdout)?))
    }

    fn parse(metadata: &Value) -> Self {
        let mut crates = Self::default();
        let mut names = BTreeMap::new();
        let members: BTreeSet<_> = items(&metadata["workspace_members"]).map(text).collect();
        for package in items(&metadata["packages"]) {
            let (id, name) = (text(&package["id"]), text(&package["name"]));
            names.insert(id, name);
            crates
                .versions
                .insert((name.into(), text(&package["version"]).into()));
            if members.contains(id) {
                let direct = items(&package["dependencies"])
                    .map(|dependency| text(&dependency["name"]).into());
                crates.members.insert(name.into(), direct.collect());
            }
        }
        for node in items(&metadata["resolve"]["nodes"]) {
            let linked = items(&node["deps"])
                .filter(|dependency| {
                    items(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
                })
                .filter_map(|dependency| {
                    names.get(text(&dependency["pkg"])).map(ToString::to_string)
                });
            let name = names.get(text(&node["id"])).copied().unwrap_or_default();
            crates.links.entry(name.into()).or_default().extend(linked);
        }
        crates
    }

    /// Edges between our own crates that the design does not have.
    pub fn our_edges(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, dependencies) in &self.members {
            let Some((_, allowed)) = OURS.iter().find(|(known, _)| known == name) else {
                let why = "a crate that the table in tests/src/tidy/crates.rs does not know";
                findings.push(Finding::about("crate-for-a-border", name, why));
                continue;
            };
            let ours = dependencies
                .iter()
                .filter(|used| self.members.contains_key(*used) && *used != name);
            findings.extend(
                ours.filter(|used| !allowed.contains(&"*") && !allowed.contains(&used.as_str()))
                    .map(|used| {
                        Finding::about("deps-are-architecture", name, format!("may not use {used}"))
                    }),
            );
        }
        findings
    }

    /// Foreign crates where they may not be.
    pub fn foreign_bans(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, rule, banned) in BANS
            .iter()
            .filter(|(name, ..)| self.members.contains_key(*name))
        {
            let found = banned
                .iter()
                .filter_map(|foreign| Some((*foreign, self.path(name, foreign)?)));
            findings.extend(found.map(|(foreign, path)| {
                Finding::about(
                    rule,
                    name,
                    format!("links {foreign}, through {}", path.join(" > ")),
                )
            }));
        }
        findings
    }

    /// Crates that are out altogether.
    pub fn kept_out(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, version) in &self.versions {
            let out = KEPT_OUT
                .iter()
                .find(|(out, from, _)| out == name && numbers(version) >= numbers(from));
            findings.extend(
                out.map(|(_, _, why)| {
                    Finding::about("kept-out", &format!("{name} {version}"), *why)
                }),
            );
        }
        findings
    }

    /// The shortest way from one crate to another.
    fn path(&self, from: &str, to: &str) -> Option<Vec<&str>> {
        let (from, _) = self.links.get_key_value(from)?;
        let mut paths = vec![vec![from.as_str()]];
        let mut seen = BTreeSet::from([from.as_str()]);
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            let last = path.last()?;
            if *last == to {
                return Some(path);
            }
            for used in self.links.get(*last).into_iter().flatten() {
                if seen.insert(used) {
                    paths.push([&path[..], &[used.as_str()]].concat());
                }
            }
            next += 1;
        }
        None
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The leading numbers of a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace of the crates that `edges` begin at: (from, to, kind).
    fn crates(edges: &[(&str, &str, Value)]) -> Crates {
        let names: BTreeSet<_> = edges
            .iter()
            .flat_map(|(from, to, _)| [*from, *to])
            .collect();
        let members: BTreeSet<_> = names
            .iter()
            .filter(|name| OURS.iter().any(|(ours, _)| ours == *name))
            .collect();
        let of = |name: &str| {
            edges
                .iter()
                .filter(move |(from, ..)| *from == name)
                .collect::<Vec<_>>()
        };
        let packages: Vec<_> = names
            .iter()
            .map(|name| {
                let direct: Vec<_> = of(name)
                    .iter()
                    .map(|(_, to, _)| json!({"name": to}))
                    .collect();
                json!({"id": name, "name": name, "version": "1.2.3", "dependencies": direct})
            })
            .collect();
        let nodes: Vec<_> = names
            .iter()
            .map(|name| {
                let deps: Vec<_> = of(name)
                    .iter()
                    .map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        Crates::parse(
            &json!({"workspace_members": members, "packages": packages, "resolve": {"nodes": nodes}}),
        )
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        let found = crates(&[
            ("cube-agent", "cube-vmm", Value::Null),
            ("cube-vmm", "cube-hv", Value::Null),
        ])
        .our_edges();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "deps-are-architecture  cube-agent: may not use cube-vmm"
        );
    }

    #[test]
    fn an_edge_of_test_code_counts_too() {
        let found = crates(&[("cube-hv", "cube-vmm", json!("dev"))]).our_edges();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_found() {
        let mut crates = crates(&[]);
        crates.members.insert("cube-new".into(), BTreeSet::new());
        assert_eq!(crates.our_edges()[0].rule, "crate-for-a-border");
    }

    #[test]
    fn a_banned_crate_is_found_with_the_way_to_it() {
        let found = crates(&[
            ("cube-vmm", "cube-virtio", Value::Null),
            ("cube-virtio", "some-crate", Value::Null),
            ("some-crate", "tokio", Value::Null),
        ])
        .foreign_bans();
        assert_eq!(found.len(), 2);
        assert!(
            found[1]
                .why
                .contains("cube-vmm > cube-virtio > some-crate > tokio"),
            "{found:?}"
        );
    }

    #[test]
    fn what_is_not_linked_is_not_banned() {
        let found =
            crates(&[("cube-vmm", "x", json!("dev")), ("x", "tokio", Value::Null)]).foreign_bans();
        assert_eq!(found, []);
    }

    #[test]
    fn versions_decide_what_is_kept_out() {
        let mut crates = Crates::default();
        for (name, version) in [
            ("libc", "0.2.9"),
            ("libc", "1.0.0-alpha.1"),
            ("bincode", "2.0.1"),
            ("aya", "0.14.0"),
        ] {
            crates.versions.insert((name.into(), version.into()));
        }
        let found: Vec<_> = crates
            .kept_out()
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(found, ["bincode 2.0.1", "libc 1.0.0-alpha.1"]);
    }
}
