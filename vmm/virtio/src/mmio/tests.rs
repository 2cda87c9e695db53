// SPDX-License-Identifier: Apache-2.0
//! Tests of the registers, by a driver that follows the rules and by ones that do not.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::QueueError;
use crate::state::{DeviceState, QueueState, RestoreError};
use crate::testing::{BUFFERS, Driver, DriverQueue, F_EVENT_IDX, F_VERSION_1, Part, memory};

const F_OWN: u64 = 1 << 3;
const CONFIG: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// A device that notes what is done to it and copies requests' data.
#[derive(Debug, Default)]
struct Probe {
    queues: Vec<Virtqueue>,
    log: Arc<Mutex<Vec<&'static str>>>,
    notified: usize,
}

impl Device for Probe {
    fn identity(&self) -> Identity {
        Identity {
            device_id: 42,
            features: F_OWN,
            queue_sizes: &[16, 8],
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::read_config_bytes(&CONFIG, offset, data);
    }

    fn start(&mut self, queues: Vec<Virtqueue>, _features: u64) {
        assert!(self.queues.is_empty(), "started twice");
        assert_eq!(queues.len(), 2);
        self.queues = queues;
        self.log.lock().unwrap().push("start");
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.log.lock().unwrap().push("stop");
        self.queues.drain(..).map(Virtqueue::stop).collect()
    }

    fn save(&self) -> DeviceState {
        DeviceState::Rng
    }

    fn notify(&mut self, index: usize) -> Result<Work, QueueError> {
        self.notified += 1;
        match self.queues.get_mut(index) {
            Some(queue) => queue.drain(|request| u32::try_from(request.writable.len()).unwrap()),
            None => Ok(Work::Done),
        }
    }
}

#[test]
fn the_device_tells_what_it_is() {
    let driver = Driver::start(Probe::default());
    assert_eq!(driver.read(offset::MAGIC), 0x7472_6976);
    assert_eq!(driver.read(offset::VERSION), 2);
    assert_eq!(driver.read(offset::DEVICE_ID), 42);
    let features = |sel| {
        driver.write(offset::DEVICE_FEATURES_SEL, sel);
        driver.read(offset::DEVICE_FEATURES)
    };
    assert_eq!(features(0), 1 << 29 | 1 << 3);
    assert_eq!(features(1), 1);
    assert_eq!(features(2), 0);
    let sizes = |sel| {
        driver.write(offset::QUEUE_SEL, sel);
        driver.read(offset::QUEUE_NUM_MAX)
    };
    assert_eq!(
        [sizes(0), sizes(1), sizes(2), sizes(u32::MAX)],
        [16, 8, 0, 0]
    );
    assert_eq!(driver.read(offset::SHM_LEN_LOW), u32::MAX);
}

#[test]
fn the_configuration_space_takes_any_width() {
    let driver = Driver::start(Probe::default());
    assert_eq!(driver.config::<1>(2), [3]);
    assert_eq!(driver.config::<2>(1), [2, 3]);
    assert_eq!(driver.config::<8>(2), [3, 4, 5, 6, 0, 0, 0, 0]);
    assert_eq!(driver.config::<4>(6), [0; 4]);
    assert_eq!(driver.config::<4>(u64::MAX - offset::CONFIG), [0; 4]);
}

#[test]
fn registers_are_aligned_words() {
    let driver = Driver::start(Probe::default());
    for (at, len) in [(0, 1), (0, 2), (0, 8), (1, 4), (2, 4), (0, 0), (3, 3)] {
        let mut data = vec![0xff; len];
        driver.transport.read(at, &mut data);
        assert_eq!(data, vec![0; len], "{len} bytes at {at}");
    }
    driver.transport.write(offset::STATUS, &[0]);
    driver.transport.write(offset::STATUS, &[0; 8]);
    assert_eq!(driver.read(offset::STATUS), 15);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    for features in [0, F_EVENT_IDX, F_VERSION_1 | 1 << 4, F_VERSION_1 | 1 << 63] {
        let transport = MmioTransport::new(Probe::default(), memory()).unwrap();
        let driver = Driver {
            transport,
            memory: memory(),
            queues: Vec::new(),
        };
        driver.write(offset::STATUS, 1);
        driver.write(offset::STATUS, 3);
        for (sel, half) in [(0, features), (1, features >> 32)] {
            driver.write(offset::DRIVER_FEATURES_SEL, sel);
            driver.write(
                offset::DRIVER_FEATURES,
                u32::try_from(half & 0xffff_ffff).unwrap(),
            );
        }
        driver.write(offset::STATUS, 11);
        assert_eq!(driver.read(offset::STATUS), 3, "{features:#x}");
        driver.write(offset::STATUS, 15);
        assert_eq!(driver.read(offset::STATUS), 3, "{features:#x}");
    }
    Driver::with_features(Probe::default(), F_VERSION_1 | F_OWN);
}

#[test]
fn the_status_only_advances() {
    let transport = MmioTransport::new(Probe::default(), memory()).unwrap();
    let driver = Driver {
        transport,
        memory: memory(),
        queues: Vec::new(),
    };
    for (write, then) in [
        (2, 0),
        (11, 0),
        (15, 0),
        (1, 1),
        (15, 1),
        (11, 1),
        (3, 3),
        (1, 3),
        (15, 3),
    ] {
        driver.write(offset::STATUS, write);
        assert_eq!(driver.read(offset::STATUS), then, "after {write}");
    }
    driver.write(offset::STATUS, 128);
    assert_eq!(driver.read(offset::STATUS), 131);
    driver.write(offset::STATUS, 1);
    assert_eq!(driver.read(offset::STATUS), 131);
    driver.write(offset::STATUS, 0);
    assert_eq!(driver.read(offset::STATUS), 0);
}

#[test]
fn nothing_is_served_before_the_driver_is_ready() {
    let probe = Probe::default();
    let memory = memory();
    let transport = MmioTransport::new(probe, memory.clone()).unwrap();
    let mut driver = Driver {
        transport,
        memory: memory.clone(),
        queues: Vec::new(),
    };
    driver.negotiate(F_VERSION_1);
    for (index, size) in [(0, 16), (1, 8)] {
        let queue = DriverQueue::new(memory.clone(), index, size);
        driver.set_up(index, &queue);
        driver.queues.push(queue);
    }
    let head = driver.queues[0].add(&[Part::Write(BUFFERS, 10)]);
    driver.kick(0);
    assert_eq!(driver.queues[0].take(), None);
    assert!(!driver.transport.is_running());
    driver.write(offset::STATUS, 15);
    assert!(driver.transport.is_running());
    driver.kick(0);
    assert_eq!(driver.queues[0].take(), Some((head, 10)));
}

#[test]
fn a_running_queue_cannot_be_changed() {
    let mut driver = Driver::start(Probe::default());
    for sel in 0..3 {
        driver.write(offset::QUEUE_SEL, sel);
        for register in [0x38, 0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xc0] {
            for value in [0, 1, 2, 0x8000, u32::MAX] {
                driver.write(register, value);
            }
        }
    }
    driver.write(offset::QUEUE_SEL, 0);
    assert_eq!(driver.read(offset::QUEUE_READY), 1);
    // More requests than the queue is long: size and places are what they were.
    for _ in 0..40 {
        assert_eq!(driver.request(0, &[Part::Write(BUFFERS, 10)]), Some(10));
    }
}

#[test]
fn a_ready_queue_cannot_be_changed_either() {
    let driver = Driver::start(Probe::default());
    driver.negotiate(F_VERSION_1);
    let queue = DriverQueue::new(driver.memory.clone(), 0, 16);
    driver.set_up(0, &queue);
    driver.write(offset::QUEUE_NUM, 3);
    driver.write(offset::QUEUE_DESC_LOW, 0xffff_fff0);
    driver.set_up(1, &DriverQueue::new(driver.memory.clone(), 1, 8));
    driver.write(offset::STATUS, 15);
    assert_eq!(driver.read(offset::STATUS), 15);
}

#[test]
fn queues_that_cannot_be_used_need_a_reset() {
    let break_it: [fn(&Driver<Probe>); 7] = [
        |driver| driver.write(offset::QUEUE_READY, 0),
        |driver| driver.write(offset::QUEUE_READY, 2),
        |driver| driver.write(offset::QUEUE_NUM, 0),
        |driver| driver.write(offset::QUEUE_NUM, 3),
        |driver| driver.write(offset::QUEUE_NUM, 0x1_0008),
        |driver| driver.write(offset::QUEUE_DESC_LOW, 8),
        |driver| driver.write(offset::QUEUE_DEVICE_HIGH, 1),
    ];
    for (case, break_it) in break_it.iter().enumerate() {
        let driver = Driver::start(Probe::default());
        driver.negotiate(F_VERSION_1);
        for (index, size) in [(0, 16), (1, 8)] {
            driver.set_up(index, &DriverQueue::new(driver.memory.clone(), index, size));
        }
        driver.write(offset::QUEUE_READY, 0);
        break_it(&driver);
        if case > 1 {
            driver.write(offset::QUEUE_READY, 1);
        }
        driver.interrupts();
        driver.write(offset::STATUS, 15);
        assert_eq!(driver.read(offset::STATUS), 15 | 64, "case {case}");
        assert_eq!(driver.interrupts(), 2);
        driver.write(offset::STATUS, 0);
        assert_eq!(driver.read(offset::STATUS), 0);
    }
}

#[test]
fn reset_stops_the_device_and_it_starts_again() {
    let probe = Probe::default();
    let log = Arc::clone(&probe.log);
    let mut driver = Driver::start(probe);
    driver.request(0, &[Part::Write(BUFFERS, 1)]);
    log.lock().unwrap().clear();
    driver.write(offset::STATUS, 0);
    assert_eq!(*log.lock().unwrap(), ["stop"]);
    assert_eq!(driver.read(offset::INTERRUPT_STATUS), 0);
    driver.queues[0].add(&[Part::Write(BUFFERS, 1)]);
    driver.kick(0);
    assert_eq!(driver.queues[0].take(), None);

    driver.negotiate(F_VERSION_1);
    for (index, size) in [(0, 8), (1, 4)] {
        driver.queues[index] = DriverQueue::new(driver.memory.clone(), index, size);
        let queue = &driver.queues[index];
        // The rings of before are still in memory.
        driver.poke(queue.avail, &[0; 4]);
        driver.poke(queue.used, &[0; 4]);
        driver.set_up(index, queue);
    }
    driver.write(offset::STATUS, 15);
    for _ in 0..20 {
        assert_eq!(driver.request(1, &[Part::Write(BUFFERS, 3)]), Some(3));
    }
}

#[test]
fn a_broken_queue_stops_the_device() {
    let probe = Probe::default();
    let log = Arc::clone(&probe.log);
    let mut driver = Driver::start(probe);
    // More requests than there can be.
    driver.queues[0].set_avail_idx(17);
    driver.kick(0);
    assert_eq!(driver.read(offset::STATUS), 15 | 64);
    assert_eq!(driver.interrupts(), 2);
    assert_eq!(log.lock().unwrap().last(), Some(&"stop"));
    driver.write(offset::STATUS, 15);
    assert_eq!(driver.read(offset::STATUS), 15 | 64);
}

#[test]
fn a_change_before_the_driver_is_ready_is_announced_when_it_is() {
    let change = |driver: &Driver<Probe>| driver.transport.configure(|_| ());
    let driver = Driver::start(Probe::default());
    driver.negotiate(F_VERSION_1);
    for (index, size) in [(0, 16), (1, 8)] {
        driver.set_up(index, &DriverQueue::new(driver.memory.clone(), index, size));
    }
    change(&driver);
    assert_eq!(driver.interrupts(), 0);
    driver.write(offset::STATUS, 15);
    assert_eq!(driver.interrupts(), 2);

    // One before the driver looked at the device at all is no news to it.
    driver.write(offset::STATUS, 0);
    change(&driver);
    driver.negotiate(F_VERSION_1);
    for (index, size) in [(0, 16), (1, 8)] {
        driver.set_up(index, &DriverQueue::new(driver.memory.clone(), index, size));
    }
    driver.write(offset::STATUS, 15);
    assert_eq!(driver.interrupts(), 0);
}

#[test]
fn a_notification_is_one_event_on_its_queue() {
    let driver = Driver::start(Probe::default());
    driver.write(offset::QUEUE_NOTIFY, 1);
    driver.write(offset::QUEUE_NOTIFY, 1);
    driver.write(offset::QUEUE_NOTIFY, 2);
    driver.write(offset::QUEUE_NOTIFY, u32::MAX);
    driver.run();
    assert_eq!(driver.transport.configure(|probe| probe.notified), 1);
}

#[test]
fn events_that_no_source_has_are_ignored() {
    let driver = Driver::start(Probe::default());
    driver.transport.handle(Event::Queue(7));
    driver.transport.handle(Event::Device);
    assert_eq!(driver.read(offset::STATUS), 15);
}

/// A driver on another CPU, which notifies only when the device asks for it. A device that does not
/// look again after asking would sleep on a request sooner or later.
#[test]
fn no_request_is_forgotten_between_two_threads() {
    const REQUESTS: usize = 20_000;
    let mut driver = Driver::start(Probe::default());
    let mut queue = driver.queues.remove(0);
    let (driver, done) = (&driver, &AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(move || {
            for request in 0..REQUESTS {
                let head = queue.add(&[Part::Write(BUFFERS, 4)]);
                if queue.wants_notification() {
                    driver.write(offset::QUEUE_NOTIFY, 0);
                }
                // At once, as a rule; the other thread may have to wait for a CPU.
                let used = (0..20_000).find_map(|attempt| {
                    if attempt > 10_000 {
                        thread::sleep(Duration::from_millis(1));
                    }
                    queue.take()
                });
                if used != Some((head, 4)) {
                    done.store(true, Ordering::Relaxed);
                    panic!("request {request} was forgotten");
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            driver.run_once(Duration::from_millis(10));
        }
    });
}

/// A register access, most of them where registers are.
fn access() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let register = (0..0x44u64).prop_map(|word| word * 4);
    let offset = prop_oneof![8 => register, 2 => 0..0x200u64, 1 => any::<u64>()];
    let status = prop_oneof![Just(0u32), Just(1), Just(3), Just(11), Just(15), Just(128)];
    let value = prop_oneof![4 => 0..32u32, 2 => status, 1 => any::<u32>(), 1 => (0..0x400u32).prop_map(|page| page << 12)];
    let word = value.prop_map(|value| value.to_le_bytes().to_vec());
    let data = prop_oneof![9 => word, 1 => proptest::collection::vec(any::<u8>(), 0..9)];
    prop_oneof![
        4 => (offset, data.clone()),
        2 => (Just(offset::STATUS), data),
    ]
}

proptest! {
    /// Whatever is written and read, nothing panics, the device is started only out of a
    /// stopped state and only with queues that are valid (the queue would panic in its use), and
    /// a reset always leads back to a working device.
    #[test]
    fn any_accesses_leave_a_device_that_can_be_started(
        accesses in proptest::collection::vec(access(), 0..300),
    ) {
        let probe = Probe::default();
        let log = Arc::clone(&probe.log);
        let memory = memory();
        let transport = MmioTransport::new(probe, memory.clone()).unwrap();
        let mut driver = Driver { transport, memory: memory.clone(), queues: Vec::new() };
        for (offset, data) in accesses {
            let started = log.lock().unwrap().last() == Some(&"start");
            driver.transport.write(offset, &data);
            let mut back = data.clone();
            driver.transport.read(offset, &mut back);
            driver.run();
            let starts = log.lock().unwrap().last() == Some(&"start");
            // Only a write of the status starts or stops it, or a queue that turned out broken.
            if starts && !started {
                prop_assert_eq!(offset, offset::STATUS);
            }
            let status = driver.read(offset::STATUS);
            prop_assert_eq!(status == 15, driver.transport.is_running());
            prop_assert_eq!(status == 15, starts);
        }
        // Whatever it has come to can be saved, and restored; unless the driver has put a ring
        // where the used ring's count is overwritten.
        let state = driver.transport.save();
        match driver.resume(Probe::default(), &state) {
            Ok(copy) => prop_assert_eq!(copy.transport.save(), state),
            Err(error) => prop_assert!(matches!(error, RestoreError::UsedRing { .. }), "{}", error),
        }
        driver.negotiate(F_VERSION_1 | F_EVENT_IDX);
        for (index, size) in [(0, 16), (1, 8)] {
            let queue = DriverQueue::new(memory.clone(), index, size);
            driver.poke(queue.avail, &[0; 4]);
            driver.poke(queue.used, &[0; 4]);
            driver.set_up(index, &queue);
            driver.queues.push(queue);
        }
        driver.write(offset::STATUS, 15);
        prop_assert_eq!(driver.request(0, &[Part::Write(BUFFERS, 9)]), Some(9));
    }
}
