// SPDX-License-Identifier: Apache-2.0
//! The main thread: it owns the machine, carries out the runtime's requests one after the
//! other, and ends everything when anybody says so.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use thiserror::Error;

use crate::boot::boot;
use crate::control::{Call, Reply, Server};
use crate::end::{End, Ending, Failure, Unbuilt, chain};
use crate::machine::Machine;
use crate::restore::restore;
use crate::save::{SaveError, save, working_set};

/// A request that came at the wrong time.
#[derive(Debug, Error)]
enum Untimely {
    #[error("there is no machine yet; it has to be booted or restored first")]
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
        let built = match (call, &mut self.machine) {
            (Call::Boot { .. } | Call::Restore { .. }, Some(_)) => {
                return (failed(&Untimely::Booted), None);
            }
            (
                Call::Boot {
                    config,
                    shape,
                    files,
                },
                None,
            ) => boot(&config, shape, files, &self.ending).map_err(Unbuilt::Boot),
            (Call::Restore { config, files }, None) => {
                restore(&config, files, &self.ending).map_err(Unbuilt::Restore)
            }
            (_, None) => return (failed(&Untimely::NotBooted), None),
            (call, Some(machine)) => return (answer(machine, call), None),
        };
        match built {
            Ok(machine) => {
                // A new machine stands.
                let machine = self.machine.insert(machine);
                (answer(machine, Call::Resume), None)
            }
            // The process is jailed by now, or half so: it cannot try again.
            Err(error) => (failed(&error), Some(End::NotBuilt(error))),
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
        Call::AttachNet { slot, tap } => machine.attach_net(slot, tap),
        Call::DetachNet { slot } => machine.detach_net(slot),
        Call::Pause => machine.pause(),
        Call::Resume => machine.resume(),
        Call::Save { files } => return answer_save(save(machine, files)),
        Call::WorkingSet { into, pagemap } => {
            return answer_save(working_set(machine, into, pagemap));
        }
        Call::Stats => return Reply::Stats(machine.stats()),
        // Taken out before; a process that was told to end has nothing else to say.
        Call::Boot { .. } | Call::Restore { .. } | Call::Quit => Ok(()),
    };
    match done {
        Ok(()) => Reply::Done,
        Err(error) => failed(&error),
    }
}

fn answer_save(done: Result<(), SaveError>) -> Reply {
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
