// SPDX-License-Identifier: Apache-2.0
//! The main thread: it owns the machine, carries out the runtime's requests one after the
//! other, and ends everything when anybody says so.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use thiserror::Error;

use crate::boot;
use crate::control::{Call, Reply, Server};
use crate::end::{End, Ending, Failure, chain};
use crate::machine::Machine;

/// A request that came at the wrong time.
#[derive(Debug, Error)]
enum Untimely {
    #[error("there is no machine yet; it has to be booted first")]
    NotBooted,
    #[error("there is a machine already; a process runs one")]
    Booted,
}

/// Serves the control socket until the machine's end, and says what that was.
pub fn serve(socket: OwnedFd) -> End {
    let mut service = match Ending::new() {
        Ok(ending) => Service {
            server: Server::new(socket),
            ending,
            machine: None,
        },
        Err(error) => return End::Failed(Failure::Wait(error)),
    };
    let end = service.run();
    if let Some(machine) = service.machine {
        machine.stop();
    }
    end
}

struct Service {
    server: Server,
    ending: Ending,
    machine: Option<Machine>,
}

impl Service {
    fn run(&mut self) -> End {
        loop {
            if let Err(error) = self.wait() {
                return End::Failed(Failure::Wait(error));
            }
            if let Some(end) = self.ending.take() {
                return end;
            }
            match self.serve_one() {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(failure) => return End::Failed(failure),
            }
        }
    }

    /// Waits for a request or an end.
    fn wait(&self) -> io::Result<()> {
        let mut sources = [
            PollFd::from_borrowed_fd(self.server.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.ending.as_fd(), PollFlags::IN),
        ];
        match poll(&mut sources, None) {
            Err(Errno::INTR) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries out one request; gives the end if it was the last one.
    fn serve_one(&mut self) -> Result<Option<End>, Failure> {
        let Some(call) = self.server.receive()? else {
            return Ok(Some(End::Quit));
        };
        let (reply, end) = match call {
            Err(error) => (failed(&error), None),
            Ok(Call::Quit) => (Reply::Done, Some(End::Quit)),
            Ok(call) => self.carry_out(call),
        };
        self.server.reply(&reply)?;
        Ok(end)
    }

    fn carry_out(&mut self, call: Call) -> (Reply, Option<End>) {
        match (call, &mut self.machine) {
            (
                Call::Boot {
                    config,
                    shape,
                    files,
                },
                none @ None,
            ) => {
                match boot::boot(&config, shape, files, &self.ending) {
                    Ok(machine) => {
                        *none = Some(machine);
                        (Reply::Done, None)
                    }
                    // The process is jailed by now, or half so: it cannot try again.
                    Err(error) => (failed(&error), Some(End::NotBooted(error))),
                }
            }
            (Call::Restore { .. }, None) => (failed(&Untimely::NotBooted), None),
            (Call::Boot { .. } | Call::Restore { .. }, Some(_)) => {
                (failed(&Untimely::Booted), None)
            }
            (_, None) => (failed(&Untimely::NotBooted), None),
            (call, Some(machine)) => (answer(machine, call), None),
        }
    }
}

fn answer(machine: &mut Machine, call: Call) -> Reply {
    let done = match call {
        Call::Attach {
            slot,
            disk,
            read_only,
        } => machine.attach(slot, disk, read_only),
        Call::Detach { slot } => machine.detach(slot),
        Call::Pause => machine.pause(),
        Call::Resume => machine.resume(),
        Call::Save { .. } | Call::WorkingSet { .. } => return failed(&Untimely::NotBooted),
        Call::Stats => return Reply::Stats(machine.stats()),
        // Taken out before; a process that was told to end has nothing else to say.
        Call::Boot { .. } | Call::Restore { .. } | Call::Quit => Ok(()),
    };
    match done {
        Ok(()) => Reply::Done,
        Err(error) => failed(&error),
    }
}

fn failed(error: &(dyn Error + 'static)) -> Reply {
    Reply::Failed {
        chain: chain(error),
    }
}
