// SPDX-License-Identifier: Apache-2.0
//! E2B's own SDK against our server: the programs of tests/sdk, as users would write them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use cube_tests::bed::Bed;
use cube_tests::bounded::Program;
use cube_tests::ctr::NAMESPACE;
use cube_tests::daemon::Daemon;
use cube_tests::series::{cache, checkout, our_programs};
use cube_tests::suite::{Case, case};

use crate::{ALSO_MAIN, MAIN};

pub const CASES: &[Case] = &[
    case(
        "the_sdk_runs_commands_writes_files_and_reaches_ports",
        basics,
    )
    .on(MAIN)
    .image("base")
    .ours(),
    case("sandboxes_survive_a_killed_server", survival)
        .on(ALSO_MAIN)
        .image("base")
        .ours(),
];

const ADDRESS: &str = "127.0.0.1:3999";

fn basics(bed: &mut Bed) {
    let server = Server::prepare(bed, "basics");
    let running = server.start(bed);
    server.program("basics", &[]).run().succeeded();
    running.stop();
    server.clean_up();
}

fn survival(bed: &mut Bed) {
    let server = Server::prepare(bed, "survival");
    let first = server.start(bed);
    let id = server
        .program("survival", &["make"])
        .run()
        .succeeded()
        .out();
    first.kill();
    let second = server.start(bed);
    let id = id.trim();
    server.program("survival", &["find", id]).run().succeeded();
    second.stop();
    server.clean_up();
}

/// A configuration and a key.
struct Server {
    directory: PathBuf,
    key: String,
}

impl Server {
    #[track_caller]
    fn prepare(bed: &Bed, name: &str) -> Self {
        let directory = bed.scratch(&format!("e2b-{name}"));
        fs::create_dir_all(&directory).expect("the bed has a directory");
        let config = format!(
            "listen = \"{ADDRESS}\"\nstate = \"{}\"\ncontainerd = \"{}\"\nnamespace = \"{NAMESPACE}\"\n",
            directory.display(),
            bed.address().display(),
        );
        fs::write(directory.join("e2b.toml"), config).expect("the directory is there");
        let made = Program::new(our_programs().join("cube"))
            .args(["e2b", "--config"])
            .args([directory.join("e2b.toml")])
            .args(["key", "add", name]);
        let key = made.run().succeeded().out().trim().to_owned();
        Self { directory, key }
    }

    #[track_caller]
    fn start(&self, bed: &Bed) -> Daemon {
        let mut command = Command::new(our_programs().join("cube-e2b"));
        command.arg("--config").arg(self.directory.join("e2b.toml"));
        command.arg("serve").env("CUBE_CONFIG", bed.config());
        for name in ["CUBE_RUN", "CUBE_IMAGE", "CUBE_TEMPLATES"] {
            command.env_remove(name);
        }
        let log = self.directory.join("cube-e2b.log");
        Daemon::start("cube-e2b", &command, &log, || {
            std::net::TcpStream::connect(ADDRESS).is_ok()
        })
    }

    /// A program of tests/sdk with the variables that the README names.
    fn program(&self, name: &str, args: &[&str]) -> Program {
        let url = format!("http://{ADDRESS}");
        Program::new("python3")
            .args([checkout().join(format!("tests/sdk/{name}.py"))])
            .args(args)
            .env("PYTHONPATH", cache().join("e2b-sdk"))
            .env("E2B_API_URL", &url)
            .env("E2B_SANDBOX_URL", &url)
            .env("E2B_API_KEY", &self.key)
    }

    fn clean_up(self) {
        fs::remove_dir_all(&self.directory).expect("it is ours");
    }
}
