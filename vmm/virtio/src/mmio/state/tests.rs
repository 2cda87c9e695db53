// SPDX-License-Identifier: Apache-2.0
//! Tests of a transport that is saved and restored, with any device and at any moment of a
//! driver's life.

mod hostile;

use proptest::prelude::*;

use super::*;
use crate::block::Block;
use crate::net::Net;
use crate::registers::offset;
use crate::rng::Rng;
use crate::testing::{BUFFERS, Driver, DriverQueue, F_EVENT_IDX, F_VERSION_1, Part};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn rng(_state: &DeviceState) -> Rng {
    Rng::new()
}

fn net(state: &DeviceState) -> Net {
    Net::restore(state.net().unwrap()).unwrap()
}

fn block(state: &DeviceState) -> Block {
    Block::restore(0, state.block().unwrap())
}

/// Whether queue `index` has been notified and nobody has looked.
fn is_notified<D: Device>(driver: &Driver<D>, index: usize) -> bool {
    let (_, fd) = driver.transport.notifiers().nth(index).unwrap();
    let mut fds = [rustix::event::PollFd::new(
        &fd,
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
}

#[test]
fn a_request_that_was_not_served_is_served_once_on_both_sides() {
    for notified in [true, false] {
        let mut source = Driver::start(Rng::new());
        source.request(0, &[Part::Write(BUFFERS, 8)]);
        let head = source.queues[0].add(&[Part::Write(BUFFERS, 64)]);
        if notified {
            source.write(offset::QUEUE_NOTIFY, 0);
        }
        let mut copy = source.fork(rng);
        for side in [&mut source, &mut copy] {
            assert_eq!(side.queues[0].take(), None);
        }
        assert_eq!(is_notified(&source, 0), notified);
        source.run();
        // Its own notification is lost with the source's eventfd, or was never made.
        copy.run();
        assert_eq!(copy.queues[0].take(), Some((head, 64)));
        assert_eq!(copy.queues[0].take(), None);
        assert_eq!(source.queues[0].take(), notified.then_some((head, 64)));
        assert_eq!(source.queues[0].take(), None);
        for _ in 0..20 {
            assert_eq!(copy.request(0, &[Part::Write(BUFFERS, 9)]), Some(9));
        }
    }
}

#[test]
fn every_queue_of_a_running_device_is_notified_and_of_no_other() {
    let source = Driver::start(Net::new(MAC).unwrap());
    let copy = source.fork(net);
    assert!(is_notified(&copy, 0) && is_notified(&copy, 1));
    assert!(!is_notified(&source, 0) && !is_notified(&source, 1));

    source.write(offset::STATUS, 0);
    let copy = source.fork(net);
    assert!(!is_notified(&copy, 0) && !is_notified(&copy, 1));
}

#[test]
fn a_pending_interrupt_is_raised_again() {
    let mut source = Driver::start(Rng::new());
    let mut quiet = source.fork(rng);
    assert_eq!(quiet.interrupts(), 0);
    assert_eq!(quiet.request(0, &[Part::Write(BUFFERS, 8)]), Some(8));

    source.request(0, &[Part::Write(BUFFERS, 8)]);
    let copy = source.fork(rng);
    assert_eq!(copy.interrupts(), 1);
    assert_eq!(source.interrupts(), 1);
    source.transport.configure(|_| ());
    assert_eq!(source.fork(rng).interrupts(), 2);
}

#[test]
fn a_change_that_was_not_announced_is_after_the_restore() {
    let source = Driver::start(Rng::new());
    source.negotiate(F_VERSION_1);
    source.set_up(0, &source.queues[0]);
    source.transport.configure(|_| ());
    let copy = source.fork(rng);
    copy.write(offset::STATUS, 15);
    assert_eq!(copy.interrupts(), 2);
}

#[test]
fn a_chain_of_restores_goes_on() {
    let mut driver = Driver::start(Rng::new());
    for len in 1..100 {
        assert_eq!(driver.request(0, &[Part::Write(BUFFERS, len)]), Some(len));
        driver = driver.fork(rng);
    }
}

#[test]
fn a_broken_device_stays_broken_until_it_is_reset() {
    let mut source = Driver::start(Rng::new());
    source.queues[0].set_avail_idx(99);
    source.kick(0);
    let copy = source.fork(rng);
    assert_eq!(copy.read(offset::STATUS), 15 | 64);
    assert_eq!(copy.interrupts(), 2);
    copy.write(offset::STATUS, 0);
    assert_eq!(copy.read(offset::STATUS), 0);
}

/// The positions are those of the rings whatever they have wrapped to.
#[test]
fn positions_wrap() {
    let mut source = Driver::start(Rng::new());
    for _ in 0..u32::from(u16::MAX) + 3 {
        source.request(0, &[Part::Write(BUFFERS, 1)]);
    }
    assert_eq!(
        source.transport.save().queues,
        [QueueState {
            next_avail: 2,
            next_used: 2
        }]
    );
    let mut copy = source.fork(rng);
    assert_eq!(copy.request(0, &[Part::Write(BUFFERS, 5)]), Some(5));
}

/// One step of a driver that keeps to the rules, and of the host.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add(usize),
    Notify(usize),
    Run,
    Take,
    Acknowledge,
    Change,
    Reset,
    /// As far as this status.
    SetUp(u32),
    Select(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2usize).prop_map(Step::Add),
        4 => (0..2usize).prop_map(Step::Notify),
        4 => Just(Step::Run),
        4 => Just(Step::Take),
        2 => Just(Step::Acknowledge),
        2 => Just(Step::Change),
        1 => Just(Step::Reset),
        1 => prop_oneof![Just(1u32), Just(3), Just(11), Just(15)].prop_map(Step::SetUp),
        1 => any::<u32>().prop_map(Step::Select),
    ]
}

impl<D: Device> Driver<D> {
    fn step(&mut self, step: Step) {
        match step {
            Step::Add(index) => {
                let running = self.transport.is_running();
                if let Some(queue) = self.queues.get_mut(index)
                    && running
                    && queue.free() >= 2
                {
                    queue.add(&[Part::Read(BUFFERS, 100), Part::Write(BUFFERS + 0x1000, 600)]);
                }
            }
            Step::Notify(index) => self.write(offset::QUEUE_NOTIFY, u32::try_from(index).unwrap()),
            Step::Run => self.run(),
            Step::Take => {
                for queue in &mut self.queues {
                    while queue.take().is_some() {}
                }
            }
            Step::Acknowledge => {
                let status = self.read(offset::INTERRUPT_STATUS);
                self.write(offset::INTERRUPT_ACK, status);
            }
            Step::Change => self.transport.configure(|_| ()),
            Step::Reset => self.write(offset::STATUS, 0),
            Step::SetUp(status) => self.set_up_until(status),
            Step::Select(value) => {
                for register in [
                    offset::QUEUE_SEL,
                    offset::DEVICE_FEATURES_SEL,
                    offset::DRIVER_FEATURES_SEL,
                ] {
                    self.write(register, value);
                }
            }
        }
    }

    fn set_up_until(&mut self, status: u32) {
        self.write(offset::STATUS, 0);
        for early in [1, 3] {
            if early <= status {
                self.write(offset::STATUS, early);
            }
        }
        if status < 11 {
            return;
        }
        self.negotiate(F_VERSION_1 | F_EVENT_IDX);
        for index in 0..self.queues.len() {
            let size = self.queues[index].size;
            let queue = DriverQueue::new(self.memory.clone(), index, size);
            self.poke(queue.avail, &[0; 0x1000]);
            self.poke(queue.used, &[0; 0x1000]);
            self.set_up(index, &queue);
            self.queues[index] = queue;
        }
        self.write(offset::STATUS, status);
        assert_eq!(self.read(offset::STATUS), status);
    }

    /// All that both machines can see of what is to come is the same.
    fn outcome(&mut self) -> (u32, Vec<Vec<(u16, u32)>>, bool) {
        self.run();
        let queues = self.queues.iter_mut();
        let used = queues.map(|queue| std::iter::from_fn(|| queue.take()).collect());
        let used = used.collect();
        let status = self.read(offset::STATUS);
        (status, used, self.transport.is_running())
    }
}

/// Both go on to the same end, once the first has had the notifications that the second gets.
fn check_fork<D: Device, E: Device>(
    mut source: Driver<D>,
    steps: &[Step],
    remake: fn(&DeviceState) -> E,
) {
    for step in steps {
        source.step(*step);
    }
    let mut copy = source.fork(remake);
    for index in 0..source.queues.len() {
        source.kick(index);
    }
    assert_eq!(source.outcome(), copy.outcome());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_restored_device_is_the_saved_one(steps in proptest::collection::vec(step(), 0..60)) {
        check_fork(Driver::start(Rng::new()), &steps, rng);
        check_fork(Driver::start(Net::new(MAC).unwrap()), &steps, net);
        check_fork(Driver::start(Block::new(0)), &steps, block);
    }
}
