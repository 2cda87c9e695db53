// SPDX-License-Identifier: Apache-2.0
//! A guest's driver and sockets, as far as the tests need them.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use tempfile::TempDir;

use crate::state::DeviceState;
use crate::testing::{BUFFERS, Driver, F_EVENT_IDX, F_VERSION_1, Part};
use crate::vsock::packet::{HEADER_BYTES, Header, Op, Ports};
use crate::vsock::{GUEST_CID, HOST_CID, Vsock, VsockState};

pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const EVENT: usize = 2;

const RX_BYTES: u32 = 4096;
const TX_BUFFERS: u64 = BUFFERS + 0x8_0000;
/// A header's page and the largest packet.
const TX_SLOT_BYTES: u64 = 0x1_1000;
const TX_SLOTS: u64 = 16;
const EVENTS: u64 = BUFFERS + 0x7_0000;

/// How long a test waits for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Guest {
    pub driver: Driver<Vsock>,
    directory: TempDir,
    rx: HashMap<u16, u64>,
    tx: HashMap<u16, u64>,
    tx_free: Vec<u64>,
    arrived: VecDeque<(Header, Vec<u8>)>,
    events: HashMap<u16, u64>,
}

impl Guest {
    /// With buffers in the receive queue.
    pub fn start() -> Self {
        Self::without_buffers().with_buffers()
    }

    /// The same without the feature that both sides name the place of their next notification.
    pub fn start_plain() -> Self {
        Self::with_features(F_VERSION_1).with_buffers()
    }

    fn with_buffers(mut self) -> Self {
        let guest = &mut self;
        for index in 0..64 {
            guest.add_buffer(BUFFERS + index * u64::from(RX_BYTES));
        }
        guest.driver.kick(RX);
        self
    }

    pub fn without_buffers() -> Self {
        Self::with_features(F_VERSION_1 | F_EVENT_IDX)
    }

    fn with_features(features: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let driver = Driver::with_features(Vsock::new(listener.into()).unwrap(), features);
        let tx_free = (0..TX_SLOTS)
            .map(|slot| TX_BUFFERS + slot * TX_SLOT_BYTES)
            .collect();
        Self {
            driver,
            directory,
            rx: HashMap::new(),
            tx: HashMap::new(),
            tx_free,
            arrived: VecDeque::new(),
            events: HashMap::new(),
        }
    }

    /// The guest as a restored machine finds it, with a socket of its own on the host.
    pub fn fork(&self) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let restore =
            |state: &DeviceState| Vsock::restore(listener.into(), state.vsock().unwrap()).unwrap();
        self.with(self.driver.fork(restore), directory)
    }

    /// The same guest behind another device, whose socket is in `directory`.
    pub fn with(&self, driver: Driver<Vsock>, directory: TempDir) -> Self {
        Self {
            driver,
            directory,
            rx: self.rx.clone(),
            tx: self.tx.clone(),
            tx_free: self.tx_free.clone(),
            arrived: self.arrived.clone(),
            events: self.events.clone(),
        }
    }

    pub fn state(&self) -> VsockState {
        self.driver.transport.save().device.vsock().unwrap().clone()
    }

    /// One more buffer for an event; without a notification.
    pub fn add_event_buffer(&mut self) {
        let at = EVENTS + 4 * self.driver.queues[EVENT].free() as u64;
        self.driver.poke(at, &[0xff; 4]);
        let head = self.driver.queues[EVENT].add(&[Part::Write(at, 4)]);
        self.events.insert(head, at);
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Vec<u8>> {
        let (head, len) = self.driver.queues[EVENT].take()?;
        Some(self.driver.peek(self.events[&head], len as usize))
    }

    /// What Linux does when it is through with an event: it notifies only if it is asked to.
    pub fn refill_event(&mut self) {
        self.add_event_buffer();
        if self.driver.queues[EVENT].wants_notification() {
            self.driver.kick(EVENT);
        }
    }

    pub fn add_buffer(&mut self, addr: u64) {
        let head = self.driver.queues[RX].add(&[Part::Write(addr, RX_BYTES)]);
        self.rx.insert(head, addr);
    }

    /// A program of the host connects and says `greeting`.
    pub fn host_connects(&mut self, greeting: &str) -> UnixStream {
        use std::io::Write;
        let mut socket = UnixStream::connect(self.directory.path().join("sock")).unwrap();
        socket.write_all(greeting.as_bytes()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        self.driver.run();
        socket
    }

    /// A connection to `port`, accepted; the program has read its OK.
    pub fn open(&mut self, port: u32) -> (UnixStream, Socket) {
        use std::io::Read;
        let mut program = self.host_connects(&format!("CONNECT {port}\n"));
        let (request, _) = self.expect(Op::Request);
        assert_eq!((request.dst_port, request.dst_cid), (port, GUEST_CID));
        let mut socket = Socket::new(Ports {
            host: request.src_port,
            guest: port,
        });
        socket.hear(&request);
        self.send(&socket.header(Op::Response), &[]);
        let ok = format!("OK {}\n", request.src_port);
        let mut line = vec![0; ok.len()];
        program.read_exact(&mut line).unwrap();
        assert_eq!(line, ok.as_bytes());
        (program, socket)
    }

    /// The next packet, which is to be an `op`. News of credit come when they like.
    pub fn expect(&mut self, op: Op) -> (Header, Vec<u8>) {
        loop {
            if let Some((header, data)) = self.next() {
                if header.op == Op::CreditUpdate as u16 {
                    continue;
                }
                assert_eq!(header.op, op as u16, "{header:?}");
                return (header, data);
            }
            assert!(self.driver.run_once(PATIENCE), "no {op:?} came");
        }
    }

    /// The next packet that has arrived. Its buffer goes back into the queue.
    pub fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        self.driver.run();
        self.collect();
        self.arrived.pop_front()
    }

    fn collect(&mut self) {
        let mut refilled = false;
        while let Some((head, len)) = self.driver.queues[RX].take() {
            let addr = self.rx.remove(&head).unwrap();
            let bytes = self.driver.peek(addr, len as usize);
            let header = Header::from_bytes(bytes.first_chunk().unwrap());
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST_CID));
            assert_eq!(bytes.len(), HEADER_BYTES + header.len as usize);
            self.arrived
                .push_back((header, bytes[HEADER_BYTES..].to_vec()));
            self.add_buffer(addr);
            refilled = true;
        }
        if refilled {
            self.driver.kick(RX);
        }
    }

    pub fn send(&mut self, header: &Header, data: &[u8]) {
        self.send_raw(&header.to_bytes(), data);
    }

    /// Any bytes as header and data.
    pub fn send_raw(&mut self, header: &[u8], data: &[u8]) {
        self.queue_packet(header, data);
        self.driver.kick(TX);
    }

    /// Without a notification.
    pub fn queue_packet(&mut self, header: &[u8], data: &[u8]) {
        self.reclaim();
        let slot = self
            .tx_free
            .pop()
            .expect("the device returns what it was sent");
        self.driver.poke(slot, header);
        self.driver.poke(slot + 0x1000, data);
        let mut parts = vec![Part::Read(slot, u32::try_from(header.len()).unwrap())];
        if !data.is_empty() {
            parts.push(Part::Read(
                slot + 0x1000,
                u32::try_from(data.len()).unwrap(),
            ));
        }
        let head = self.driver.queues[TX].add(&parts);
        self.tx.insert(head, slot);
    }

    /// How many packets the device has not taken.
    pub fn unsent(&mut self) -> usize {
        self.driver.run();
        self.reclaim();
        self.tx.len()
    }

    fn reclaim(&mut self) {
        while let Some((head, _)) = self.driver.queues[TX].take() {
            self.tx_free.push(self.tx.remove(&head).unwrap());
        }
    }
}

/// A socket of the guest: its ports and its credit.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    ports: Ports,
    pub sent: u32,
    pub received: u32,
    told: u32,
    peer_alloc: u32,
    peer_forwarded: u32,
}

/// Its buffer.
pub(super) const BUF_ALLOC: u32 = 256 << 10;

impl Socket {
    pub fn new(ports: Ports) -> Self {
        Self {
            ports,
            sent: 0,
            received: 0,
            told: 0,
            peer_alloc: 0,
            peer_forwarded: 0,
        }
    }

    pub fn header(&mut self, op: Op) -> Header {
        self.told = self.received;
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: self.ports.guest,
            dst_port: self.ports.host,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.received,
            ..Header::to_guest(self.ports, op)
        }
    }

    pub fn data(&mut self, data: &[u8]) -> Header {
        let len = u32::try_from(data.len()).unwrap();
        self.sent = self.sent.wrapping_add(len);
        Header {
            len,
            ..self.header(Op::Data)
        }
    }

    pub fn shutdown(&mut self, flags: u32) -> Header {
        Header {
            flags,
            ..self.header(Op::Shutdown)
        }
    }

    /// Takes note of a packet of the host; the data counts as read.
    pub fn hear(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
        self.received = self.received.wrapping_add(header.len);
        assert!(
            self.received.wrapping_sub(self.told) <= BUF_ALLOC,
            "credit exceeded"
        );
    }

    pub fn credit(&self) -> usize {
        (self.peer_alloc - self.sent.wrapping_sub(self.peer_forwarded)) as usize
    }

    /// Whether the host should hear what was read.
    pub fn is_low(&self) -> bool {
        self.received.wrapping_sub(self.told) > BUF_ALLOC / 2
    }
}
