// SPDX-License-Identifier: Apache-2.0
//! containerd's door to Cube: the shim of the runtime `io.cube.v1`.
//!
//! containerd executes this binary once per container (or pod) with the action `start`; that process
//! leaves a server behind, the *shim*, which owns one sandbox and serves containerd's task API for
//! the containers in it. The action `delete` removes what a sandbox left, from files alone.
//! Everything that happens inside a machine is `cube_runtime::Sandbox`; this crate translates.
//!
//! ```text
//! containerd --start--> bootstrap --spawns--> serve --+-- task   (17 calls, v2 and v3) --> guest --> cube_runtime
//!      ^                    |                         +-- pod    (sandbox v1)
//!      +---- address -------+                         +-- io     (fifos, files, loggers)
//!      +---- events <---------------------------------+-- events (ordered, retried)
//! containerd --delete-> delete --> cube_runtime::reap
//! ```

use std::io::Write;
use std::process::ExitCode;

mod args;
mod bootstrap;
mod bundle;
mod delete;
mod error;
mod events;
mod guest;
mod info;
mod io;
mod log;
mod pod;
mod serve;
mod stats;
mod task;

use args::{Action, Flags};

fn main() -> ExitCode {
    let outcome = Flags::parse(std::env::args().skip(1)).map_err(anyhow::Error::from);
    match outcome.and_then(|(flags, action)| run(&flags, action)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows what a failed shim printed to the user, both streams together.
            complain(&format!("{error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags, action: Action) -> anyhow::Result<()> {
    let answer = match action {
        Action::Start => bootstrap::start(flags)?,
        Action::Delete => delete::delete(flags)?,
        Action::Info => info::runtime_info()?,
        Action::Version => info::version(),
        Action::Serve => return serve::serve(flags),
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&answer)?;
    stdout.flush()?;
    Ok(())
}

/// Nothing more can be done about an error of standard error itself.
fn complain(text: &str) {
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}
