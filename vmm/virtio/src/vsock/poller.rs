// SPDX-License-Identifier: Apache-2.0
//! What the socket device waits for: the listening socket, the connected ones and a timer, behind
//! one epoll descriptor, which is what the VMM polls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// The most that one call of [`Poller::wait`] reports; what is left is reported by the next.
const MAX_EVENTS: usize = 64;

/// What epoll says of a descriptor that is not a connection's.
const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What a socket device cannot be without.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// No epoll descriptor.
    #[error("cannot create an epoll descriptor")]
    Epoll(#[source] io::Error),
    /// No timer.
    #[error("cannot create a timer descriptor")]
    Timer(#[source] io::Error),
    /// The listening socket cannot be polled.
    #[error("cannot poll the listening socket")]
    Listener(#[source] io::Error),
}

/// What has happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Happening {
    /// A program connects.
    Incoming,
    /// The timer has run out.
    Timer,
    /// The socket that was added under this port has changed.
    Socket {
        port: u32,
        readable: bool,
        writable: bool,
        gone: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    listener: OwnedFd,
    timer: OwnedFd,
    timer_armed: bool,
    /// Not polled for lack of descriptors.
    listener_paused: bool,
}

impl Poller {
    pub fn new(listener: OwnedFd) -> Result<Self, VsockError> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(|error| VsockError::Timer(error.into()))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| VsockError::Epoll(error.into()))?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)
            .map_err(|error| VsockError::Timer(error.into()))?;
        let poller = Self {
            epoll,
            listener,
            timer,
            timer_armed: false,
            listener_paused: false,
        };
        rustix::io::ioctl_fionbio(&poller.listener, true)
            .and_then(|()| poller.add_listener())
            .map_err(|error| VsockError::Listener(error.into()))?;
        Ok(poller)
    }

    /// Readable when [`Poller::wait`] has something to report.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// What has happened by now.
    pub fn wait(&self) -> impl Iterator<Item = Happening> + use<> {
        let nothing = epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [nothing; MAX_EVENTS];
        let count = match epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(error) => {
                tracing::error!(%error, "cannot wait for the sockets of the host");
                0
            }
        };
        events
            .into_iter()
            .take(count)
            .filter_map(|event| match event.data.u64() {
                LISTENER => Some(Happening::Incoming),
                TIMER => Some(Happening::Timer),
                port => socket_event(port, event.flags),
            })
    }

    /// Reports each change of `socket` once, under `port`.
    pub fn add(&self, port: u32, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, EventData::new_u64(port.into()), edges)
    }

    /// The next program that connects; `None` when there is none. Without descriptors for more
    /// the listener pauses until [`Poller::take_tick`]: it would be reported again at once.
    pub fn accept(&mut self) -> Option<OwnedFd> {
        loop {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Some(socket),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the guest; pausing");
                    self.pause_listener();
                    return None;
                }
            }
        }
    }

    /// Whether a second has passed since the last call. Resumes a paused listener.
    pub fn take_tick(&mut self) -> bool {
        if self.listener_paused {
            match self.add_listener() {
                Ok(()) => self.listener_paused = false,
                Err(error) => tracing::error!(%error, "cannot resume the listening socket"),
            }
        }
        let mut count = [0; 8];
        match rustix::io::read(&self.timer, &mut count) {
            // However often it ran out while nobody looked.
            Ok(_) => true,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(error) => {
                tracing::error!(%error, "cannot read the timer of the sockets");
                false
            }
        }
    }

    /// Starts or stops the timer. It goes on for a paused listener.
    pub fn set_timer(&mut self, armed: bool) {
        let armed = armed || self.listener_paused;
        if self.timer_armed == armed {
            return;
        }
        let second = Timespec {
            tv_sec: armed.into(),
            tv_nsec: 0,
        };
        let times = Itimerspec {
            it_interval: second,
            it_value: second,
        };
        match timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times) {
            Ok(_) => self.timer_armed = armed,
            Err(error) => tracing::error!(%error, "cannot set the timer of the sockets"),
        }
    }

    #[cfg(test)]
    pub fn timer_runs(&self) -> bool {
        self.timer_armed
    }

    fn add_listener(&self) -> rustix::io::Result<()> {
        let data = EventData::new_u64(LISTENER);
        epoll::add(&self.epoll, &self.listener, data, EventFlags::IN)
    }

    fn pause_listener(&mut self) {
        match epoll::delete(&self.epoll, &self.listener) {
            Ok(()) => self.listener_paused = true,
            Err(error) => tracing::error!(%error, "cannot pause the listening socket"),
        }
        self.set_timer(true);
    }
}

fn socket_event(port: u64, flags: EventFlags) -> Option<Happening> {
    let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
    Some(Happening::Socket {
        port: u32::try_from(port).ok()?,
        // What it sent before it went can still be read.
        readable: gone || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        writable: flags.contains(EventFlags::OUT),
        gone,
    })
}
