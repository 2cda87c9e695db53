// SPDX-License-Identifier: Apache-2.0
//! All connections with their sockets, and which of them may use the next buffer of the guest.
//!
//! A connection that has something for the guest waits in `ready`, once, and is served in turn. Data
//! is read from a socket up to 64 KiB at a time, and only when there is a buffer of the guest to
//! begin with, into one staging area from which the packets are cut. A program that writes faster
//! than the guest reads is thus held back by its own socket.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::connection::{Connection, Reaction};
use super::packet::{HEADER_BYTES, Header, Malformed, Packet, Ports};
use super::poller::{Happening, Poller, VsockError};
use super::socket::{Greeting, HostSocket, Read, Write};
use super::staging::Staging;
use super::{GREETING_TICKS, MAX_CONNECTIONS, MAX_PENDING_RESETS, Tick};
use crate::chain::{MemoryError, Span};

/// Ports of the host's programs: from here on, away from the numbers that people choose.
pub(super) const FIRST_HOST_PORT: u32 = 1 << 30;

/// Programs accepted in one call of [`Muxer::poll`]; the others are reported again.
const MAX_ACCEPTS: usize = 64;

/// Copied at a time, on the stack, from guest memory to an outbox.
const CHUNK_BYTES: usize = 4 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Muxer {
    poller: Poller,
    /// The guest has a driver.
    connected: bool,
    now: Tick,
    /// By the host's port.
    endpoints: BTreeMap<u32, Endpoint>,
    pub(super) next_port: u32,
    ready: VecDeque<u32>,
    /// Answers to packets that belonged to no connection.
    pub(super) resets: VecDeque<Header>,
    staging: Staging,
}

#[derive(Debug)]
struct Endpoint {
    /// `None` once the host's program is done.
    socket: Option<HostSocket>,
    state: State,
    /// It is in `ready`.
    queued: bool,
}

#[derive(Debug)]
enum State {
    Greeting { line: Vec<u8>, deadline: Tick },
    Connected(Connection),
}

impl Muxer {
    /// Accepts programs from `listener`, a listening Unix stream socket.
    pub fn new(listener: OwnedFd) -> Result<Self, VsockError> {
        Ok(Self {
            poller: Poller::new(listener)?,
            connected: false,
            now: Tick::default(),
            endpoints: BTreeMap::new(),
            next_port: FIRST_HOST_PORT,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            staging: Staging::default(),
        })
    }

    /// Readable when [`Muxer::poll`] has something to do.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    /// The guest's driver is there.
    pub fn guest_appeared(&mut self) {
        self.connected = true;
    }

    /// The guest's driver is gone. What it has sent is still delivered.
    pub fn guest_vanished(&mut self) {
        self.connected = false;
        self.resets.clear();
        self.staging.clear();
        self.ready.clear();
        let ports: Vec<u32> = self.endpoints.keys().copied().collect();
        for port in ports {
            if let Some(endpoint) = self.endpoints.get_mut(&port) {
                endpoint.queued = false;
                if let State::Connected(connection) = &mut endpoint.state {
                    connection.guest_vanished();
                }
            }
            self.settle(port);
        }
    }

    /// Connections that the guest takes for open, or will until a packet reaches it.
    pub fn connections(&self) -> u32 {
        let known = |endpoint: &&Endpoint| match &endpoint.state {
            State::Greeting { .. } => false,
            State::Connected(connection) => connection.is_known_to_guest(),
        };
        let count = self.endpoints.values().filter(known).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Does what the host's side announces.
    pub fn poll(&mut self) {
        for happening in self.poller.wait() {
            match happening {
                Happening::Incoming => self.accept(),
                Happening::Timer => self.tick(),
                Happening::Socket {
                    port,
                    readable,
                    writable,
                    gone,
                } => {
                    self.socket_changed(port, readable, writable, gone);
                }
            }
        }
    }

    /// Whether something waits for a buffer of the guest. May be wrong when it says yes.
    pub fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.staging.is_empty() || !self.ready.is_empty()
    }

    /// Puts the next packet into `buffer` and returns its length; `None` when there is none after
    /// all. A buffer that is too small for any packet is returned empty.
    pub fn next_packet(&mut self, buffer: Span<'_>) -> Result<Option<usize>, MemoryError> {
        let Some((head, body)) = buffer
            .split_at(HEADER_BYTES)
            .filter(|(_, body)| !body.is_empty())
        else {
            return Ok(Some(0));
        };
        loop {
            if let Some(header) = self.resets.pop_front() {
                head.write(&header.to_bytes())?;
                return Ok(Some(HEADER_BYTES));
            }
            if let Some(len) = self.next_data(head, body)? {
                return Ok(Some(HEADER_BYTES + len));
            }
            let Some(port) = self.ready.pop_front() else {
                return Ok(None);
            };
            let Some(endpoint) = self.endpoints.get_mut(&port) else {
                continue;
            };
            endpoint.queued = false;
            let State::Connected(connection) = &mut endpoint.state else {
                continue;
            };
            if let Some(header) = connection.next_control() {
                self.settle(port);
                head.write(&header.to_bytes())?;
                return Ok(Some(HEADER_BYTES));
            }
            self.read_ahead(port);
            self.settle(port);
        }
    }

    /// Whether a packet of the guest can be taken: it may need an answer.
    pub fn can_receive(&self) -> bool {
        self.resets.len() < MAX_PENDING_RESETS
    }

    /// Takes one packet of the guest.
    pub fn receive(&mut self, packet: Span<'_>) -> Result<(), MemoryError> {
        // Too short to be a packet, and so to be answered.
        let Some((head, body)) = packet.split_at(HEADER_BYTES) else {
            return Ok(());
        };
        let mut bytes = [0; HEADER_BYTES];
        head.read(&mut bytes)?;
        match Packet::parse(&Header::from_bytes(&bytes), body.len()) {
            Ok(packet) => {
                let (data, _) = body.split_at(packet.len).unwrap_or((body, body));
                self.dispatch(&packet, data)
            }
            Err(Malformed::Misaddressed) => Ok(()),
            Err(Malformed::Meaningless(ports, refusal)) => {
                match self.connection(ports) {
                    Some((port, connection)) => {
                        connection.receive_nonsense();
                        self.settle(port);
                    }
                    None => self.resets.push_back(refusal),
                }
                Ok(())
            }
        }
    }

    fn dispatch(&mut self, packet: &Packet, data: Span<'_>) -> Result<(), MemoryError> {
        let now = self.now;
        let Some((port, connection)) = self.connection(packet.ports) else {
            self.resets.extend(packet.refusal);
            return Ok(());
        };
        let delivered = match connection.receive(packet, now) {
            Reaction::None => Ok(()),
            Reaction::Accepted => {
                self.confirm(port);
                Ok(())
            }
            Reaction::Deliver => self.deliver(port, data),
        };
        self.settle(port);
        delivered
    }

    /// The connection of a packet, unless its ports name none.
    fn connection(&mut self, ports: Ports) -> Option<(u32, &mut Connection)> {
        match self.endpoints.get_mut(&ports.host) {
            Some(Endpoint {
                state: State::Connected(connection),
                ..
            }) if connection.ports() == ports => Some((ports.host, connection)),
            _ => None,
        }
    }

    /// Tells the program that it is connected.
    fn confirm(&mut self, port: u32) {
        let now = self.now;
        let Some((Some(socket), connection)) = self.parts(port) else {
            return;
        };
        let line = format!("OK {port}\n");
        // Nothing was written to this socket before, so the line fits or the program is gone.
        if socket.write(line.as_bytes(), &[]) != Write::Bytes(line.len()) {
            connection.host_stopped_receiving(now);
            connection.host_sent_all(now);
        }
    }

    /// Admitted data: to the program as far as it takes it, else into the outbox.
    fn deliver(&mut self, port: u32, data: Span<'_>) -> Result<(), MemoryError> {
        let now = self.now;
        let Some((Some(socket), connection)) = self.parts(port) else {
            return Ok(());
        };
        let mut rest = data;
        if connection.outbox_is_empty() && socket.writable {
            match socket.write_guest(data)? {
                Write::Bytes(taken) => {
                    connection.forwarded(taken);
                    rest = data.split_at(taken).map_or(rest, |(_, rest)| rest);
                }
                Write::Gone => {
                    connection.forwarded(data.len());
                    connection.host_stopped_receiving(now);
                    return Ok(());
                }
            }
        }
        let mut chunk = [0; CHUNK_BYTES];
        while let Some((now, later)) = rest.split_at(rest.len().min(CHUNK_BYTES))
            && let Some(chunk) = chunk.get_mut(..now.len())
            && !now.is_empty()
        {
            now.read(chunk)?;
            connection.buffer(chunk);
            rest = later;
        }
        Ok(())
    }

    /// Sends staged data, if any.
    fn next_data(&mut self, head: Span<'_>, body: Span<'_>) -> Result<Option<usize>, MemoryError> {
        if self.staging.is_empty() {
            return Ok(None);
        }
        let len = self.staging.len().min(body.len());
        let receiver = self.parts(self.staging.port);
        let Some((_, connection)) = receiver.filter(|(_, to)| to.guest_receives()) else {
            self.staging.clear();
            return Ok(None);
        };
        let header = connection.data_header(len);
        head.write(&header.to_bytes())?;
        body.write(self.staging.take(len))?;
        Ok(Some(len))
    }

    /// Stages what the program of `port` has to send.
    fn read_ahead(&mut self, port: u32) {
        let now = self.now;
        let Some(Endpoint {
            socket: Some(socket),
            state: State::Connected(connection),
            ..
        }) = self.endpoints.get_mut(&port)
        else {
            return;
        };
        let allowance = connection.allowance();
        if !socket.readable || allowance == 0 {
            return;
        }
        match socket.read(self.staging.buffer(port, allowance)) {
            Read::Bytes(len) => {
                connection.commit(len);
                self.staging.filled(len);
            }
            Read::Later => {}
            Read::End => connection.host_sent_all(now),
        }
    }

    /// Writes the outbox of `port` as far as it is taken.
    fn flush(&mut self, port: u32) {
        let now = self.now;
        let Some((Some(socket), connection)) = self.parts(port) else {
            return;
        };
        while socket.writable && !connection.outbox_is_empty() {
            let (first, second) = connection.outbox();
            match socket.write(first, second) {
                Write::Bytes(taken) => connection.outbox_taken(taken, now),
                Write::Gone => connection.host_stopped_receiving(now),
            }
        }
    }

    fn socket_changed(&mut self, port: u32, readable: bool, writable: bool, gone: bool) {
        let now = self.now;
        let Some(Endpoint {
            socket: Some(socket),
            state,
            ..
        }) = self.endpoints.get_mut(&port)
        else {
            return;
        };
        socket.readable |= readable;
        socket.writable |= writable;
        match state {
            State::Greeting { .. } => self.greet(port),
            State::Connected(connection) => {
                if gone {
                    connection.host_stopped_receiving(now);
                }
                self.flush(port);
                self.settle(port);
            }
        }
    }

    /// Reads on in the greeting of `port`.
    fn greet(&mut self, port: u32) {
        let Some(Endpoint {
            socket: Some(socket),
            state,
            ..
        }) = self.endpoints.get_mut(&port)
        else {
            return;
        };
        let State::Greeting { line, .. } = state else {
            return;
        };
        match socket.greeting(line) {
            Greeting::Later => {}
            Greeting::Connect(guest) if self.connected => {
                let ports = Ports { host: port, guest };
                *state = State::Connected(Connection::request(ports, self.now));
                self.settle(port);
            }
            Greeting::Connect(_) | Greeting::Refuse => {
                self.endpoints.remove(&port);
            }
        }
    }

    /// Draws the conclusions from a change of `port`'s connection.
    fn settle(&mut self, port: u32) {
        let Some(endpoint) = self.endpoints.get_mut(&port) else {
            return;
        };
        let State::Connected(connection) = &mut endpoint.state else {
            return;
        };
        if connection.is_finished() {
            self.endpoints.remove(&port);
            return;
        }
        if connection.is_over_for_host() {
            endpoint.socket = None;
        }
        let mut readable = false;
        if let Some(socket) = &mut endpoint.socket {
            if connection.nothing_follows() {
                socket.end_writing();
            }
            if connection.ignores_host() {
                socket.end_reading();
            }
            readable = socket.readable;
        }
        if readable {
            connection.want_credit();
        }
        let has_packet = connection.has_control() || (readable && connection.allowance() > 0);
        if has_packet && !endpoint.queued && self.connected {
            endpoint.queued = true;
            self.ready.push_back(port);
        }
        if connection.deadline().is_some() {
            self.poller.set_timer(true);
        }
    }

    fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS {
            let Some(socket) = self.poller.accept() else {
                return;
            };
            // Dropping a socket closes it, which is the refusal.
            if self.endpoints.len() < MAX_CONNECTIONS {
                self.admit(socket);
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        let port = self.allocate_port();
        if let Err(error) = self.poller.add(port, socket.as_fd()) {
            tracing::warn!(%error, "cannot poll a connection to the guest; refusing it");
            return;
        }
        let deadline = self.now.after(GREETING_TICKS);
        let state = State::Greeting {
            line: Vec::new(),
            deadline,
        };
        let socket = Some(HostSocket::new(socket));
        self.endpoints.insert(
            port,
            Endpoint {
                socket,
                state,
                queued: false,
            },
        );
        self.poller.set_timer(true);
        // Most programs have sent their greeting by now; if not, the edge will tell.
        self.greet(port);
    }

    /// There are fewer connections than ports.
    pub(super) fn allocate_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.endpoints.contains_key(&port) {
                return port;
            }
        }
    }

    fn tick(&mut self) {
        if self.poller.take_tick() {
            self.second_passed();
        }
    }

    /// Gives up what has reached its deadline.
    pub fn second_passed(&mut self) {
        let now = self.now.after(1);
        self.now = now;
        let mut deadlines = false;
        let ports: Vec<u32> = self.endpoints.keys().copied().collect();
        for port in ports {
            match self
                .endpoints
                .get_mut(&port)
                .map(|endpoint| &mut endpoint.state)
            {
                Some(State::Greeting { deadline, .. }) if *deadline <= now => {
                    self.endpoints.remove(&port);
                }
                Some(State::Greeting { .. }) => deadlines = true,
                Some(State::Connected(connection)) => {
                    connection.tick(now);
                    deadlines |= connection.deadline().is_some();
                    self.settle(port);
                }
                None => {}
            }
        }
        self.poller.set_timer(deadlines);
    }

    #[cfg(test)]
    pub fn timer_runs(&self) -> bool {
        self.poller.timer_runs()
    }

    fn parts(&mut self, port: u32) -> Option<(Option<&mut HostSocket>, &mut Connection)> {
        match self.endpoints.get_mut(&port) {
            Some(Endpoint {
                socket,
                state: State::Connected(connection),
                ..
            }) => Some((socket.as_mut(), connection)),
            _ => None,
        }
    }
}
