// SPDX-License-Identifier: Apache-2.0
//! `cube-vmm`: started by the cube runtime with its control socket as descriptor 0.

use std::io::Write;
use std::process::ExitCode;

use cube_vmm::exit::ExitReason;
use rustix::fd::OwnedFd;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        say(&panic.to_string());
        std::process::exit(ExitReason::Panicked.code().into());
    }));
    cube_vmm::log::install();
    let Some(socket) = control_socket() else {
        say("descriptor 0 is not a control socket; this program is for the cube runtime");
        return ExitReason::Usage.code().into();
    };
    let end = cube_vmm::serve(socket);
    say(&end.to_string());
    end.reason().code().into()
}

fn control_socket() -> Option<OwnedFd> {
    let socket = rustix::stdio::stdin();
    let fits = socket_type(socket) == Ok(SocketType::SEQPACKET);
    fits.then(|| socket.try_clone_to_owned().ok()).flatten()
}

/// Nobody is left to be told when stderr is gone.
fn say(what: &str) {
    drop(writeln!(std::io::stderr(), "cube-vmm: {what}"));
}
