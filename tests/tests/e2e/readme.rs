// SPDX-License-Identifier: Apache-2.0
//! The README's commands do what it says, run as they stand there.
//!
//! In namespaces of their own, with empty directories over those that they write to: whatever is
//! installed on this host is neither used nor changed.

use std::fs;

use cube_tests::bed::Bed;
use cube_tests::bounded::Program;
use cube_tests::series::{checkout, image_archive};
use cube_tests::suite::{Case, case};

use crate::MAIN;

pub const CASES: &[Case] = &[
    case("commands_of_the_readme_install_run_and_remove", commands)
        .on(MAIN)
        .ours(),
];

/// Above where the README installs to, and where containerd keeps its own by default.
const DIRECTORIES: &str = "/usr/local/bin /etc/containerd /var/lib /run";

/// What Debian installs.
const CONTAINERD_CONFIG: &str = r#"version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
"#;

fn commands(bed: &mut Bed) {
    let readme = fs::read_to_string(checkout().join("README.md")).expect("there is one");
    let blocks = shell_blocks(&readme, "## Use it with your containerd");
    let [build, install, run, remove] = &blocks[..] else {
        panic!("four blocks of commands are expected: {blocks:#?}");
    };
    assert_eq!(build, "make build image\n"); // which is done, or there were nothing to test
    let before = format!(
        "mkdir -p {DIRECTORIES}
        for directory in {DIRECTORIES}; do mount -t tmpfs none $directory; done
        echo '{CONTAINERD_CONFIG}' > /etc/containerd/config.toml
        cp /etc/containerd/config.toml /run/before.toml"
    );
    // In place of systemd and a registry, which a test has not got.
    let restart = format!(
        "containerd 2> /run/containerd.log &
        for _ in $(seq 100); do [ -S /run/containerd/containerd.sock ] && break; sleep 1; done
        ctr image import --local --snapshotter cube {}",
        image_archive("busybox").display()
    );
    let after = "cmp /run/before.toml /etc/containerd/config.toml
        [ -z \"$(ls -A /usr/local/bin)\" ]
        [ ! -e /var/lib/cube ]
        [ ! -e /run/cube ]
        echo nothing is left";
    let said = alone(
        bed,
        &[&before, install, &restart, run, remove, after].join("\n"),
    );
    assert!(said.contains(&kernel_release(bed)), "{said}");
    assert!(said.ends_with("nothing is left"), "{said}");
}

/// Runs a script as far as it goes well, where it can harm nobody and sees nothing that tests set.
fn alone(bed: &Bed, script: &str) -> String {
    let file = bed.scratch("readme.sh");
    fs::write(&file, script).expect("the bed has a directory");
    let path = format!(
        "PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        bed.series.programs().display()
    );
    Program::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .args(["env", "-i", "-C"])
        .args([checkout()])
        .args([&path, "HOME=/root", "bash", "-euxo", "pipefail"])
        .args([file])
        .run()
        .succeeded()
        .out()
}

fn kernel_release(bed: &Bed) -> String {
    let manifest = fs::read(bed.image().join("manifest.json")).expect("the image has a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    manifest["kernel_release"].as_str().expect("text").into()
}

/// The blocks of shell commands below a heading.
fn shell_blocks(text: &str, heading: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut is_shell = false;
    let section = text.lines().skip_while(|line| *line != heading).skip(1);
    for line in section.take_while(|line| !line.starts_with("## ")) {
        match line {
            "```sh" => {
                is_shell = true;
                blocks.push(String::new());
            }
            "```" => is_shell = false,
            _ if is_shell => *blocks.last_mut().expect("one was begun") += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}
