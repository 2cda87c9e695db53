// SPDX-License-Identifier: Apache-2.0
//! A thread that serves devices: it waits for what they wait for and lets them work.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use cube_virtio::{Device, Event, MmioTransport};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

use crate::end::{End, Ending, Failure};

/// Requests are carried out on this stack; their data is not on it.
const STACK_BYTES: usize = 256 << 10;

/// Events taken from the kernel at once. All devices of a machine have about twenty sources.
const BATCH: usize = 16;

/// A device as all threads share it.
pub(crate) type SharedDevice = Arc<MmioTransport<dyn Device>>;

/// A running thread with the devices it serves.
pub(crate) struct IoThread {
    poller: Arc<Poller>,
    thread: JoinHandle<()>,
}

struct Poller {
    epoll: OwnedFd,
    /// Readable once the thread is to end.
    stop: OwnedFd,
    /// Held while devices work.
    work: Mutex<()>,
    /// All devices of the machine; which of them are served here is the epoll's matter.
    devices: Arc<[SharedDevice]>,
}

impl IoThread {
    /// Starts a thread that serves none of `devices` yet.
    pub fn spawn(name: &str, devices: Arc<[SharedDevice]>, ending: Ending) -> io::Result<Self> {
        let poller = Poller {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            work: Mutex::new(()),
            devices,
        };
        poller.watch(&poller.stop, Token::STOP)?;
        let poller = Arc::new(poller);
        let for_thread = Arc::clone(&poller);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                if let Err(error) = for_thread.serve() {
                    ending.announce(End::Failed(Failure::Devices(error)));
                }
            })?;
        Ok(Self { poller, thread })
    }

    /// Serves the device with this number from now on.
    pub fn adopt(&self, index: usize) -> io::Result<()> {
        for (event, source) in self.poller.device(index).sources() {
            self.poller.watch(source, Token::of(index, event))?;
        }
        Ok(())
    }

    /// No longer serves the device with this number. Work that has begun goes on.
    pub fn release(&self, index: usize) -> io::Result<()> {
        for (_, source) in self.poller.device(index).sources() {
            epoll::delete(&self.poller.epoll, source)?;
        }
        Ok(())
    }

    /// Waits for the work that has begun, and lets no device work for as long as the result lives.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.poller.begin_work()
    }

    /// Ends the thread after the work that has begun.
    pub fn stop(self) {
        // Once in the life of the counter: it cannot be full.
        rustix::io::write(&self.poller.stop, &1u64.to_ne_bytes())
            .expect("a fresh eventfd takes one write");
        // A panic has ended the whole process through the panic hook.
        drop(self.thread.join());
    }
}

impl Poller {
    fn device(&self, index: usize) -> &SharedDevice {
        self.devices
            .get(index)
            .expect("the machine numbers its own devices")
    }

    /// The lock protects no data of its own: a panic has ended the whole process.
    fn begin_work(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, source: impl std::os::fd::AsFd, token: Token) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token.0);
        Ok(epoll::add(
            &self.epoll,
            source,
            data,
            epoll::EventFlags::IN,
        )?)
    }

    fn serve(&self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); BATCH];
        loop {
            let (events, _) = match epoll::wait(&self.epoll, &mut space, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let _work = self.begin_work();
            for event in events {
                match Token(event.data.u64()).meaning() {
                    None => return Ok(()),
                    Some((index, event)) => self.device(index).handle(event),
                }
            }
        }
    }
}

/// What the epoll remembers of a source: the device's number and which of its sources it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token(u64);

impl Token {
    const STOP: Token = Token(u64::MAX);
    /// In place of a queue number: the device's own source.
    const OWN: u64 = 0xff;

    fn of(index: usize, event: Event) -> Self {
        let source = match event {
            Event::Queue(queue) => queue as u64,
            Event::Device => Self::OWN,
        };
        Self((index as u64) << 8 | source)
    }

    fn meaning(self) -> Option<(usize, Event)> {
        if self == Self::STOP {
            return None;
        }
        let index = usize::try_from(self.0 >> 8).ok()?;
        let event = match self.0 & 0xff {
            Self::OWN => Event::Device,
            queue => Event::Queue(usize::try_from(queue).ok()?),
        };
        Some((index, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cube_virtio::rng::Rng;

    #[test]
    fn tokens_mean_what_they_were_made_of() {
        for index in [0, 1, 10, 200] {
            for event in [Event::Queue(0), Event::Queue(2), Event::Device] {
                assert_eq!(Token::of(index, event).meaning(), Some((index, event)));
            }
        }
        assert_eq!(Token::STOP.meaning(), None);
    }

    #[test]
    fn devices_come_and_go_while_the_thread_runs() {
        let memory = cube_hv::memory::allocate(&[(0, 0x1000)]).unwrap();
        let device: SharedDevice = Arc::new(MmioTransport::new(Rng::new(), memory).unwrap());
        let ending = Ending::new().unwrap();
        let thread = IoThread::spawn("test", [device].into(), ending.clone()).unwrap();
        thread.adopt(0).unwrap();
        assert!(thread.adopt(0).is_err(), "twice");
        thread.release(0).unwrap();
        thread.adopt(0).unwrap();
        thread.stop();
        assert!(ending.take().is_none());
    }
}
