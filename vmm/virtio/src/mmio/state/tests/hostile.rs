// SPDX-License-Identifier: Apache-2.0
//! States that no driver leads to.

use proptest::prelude::*;

use super::*;
use crate::Event;
use crate::block::{BlockState, DiskState};
use crate::net::NetState;
use crate::registers::QueueSetupState;
use crate::rng::Rng;
use crate::testing::memory;

/// Each alteration of the state of a running device is refused, with its own reason.
#[test]
fn what_cannot_have_been_saved_is_refused() {
    type Case = (fn(&mut TransportState), fn(&RestoreError) -> bool);
    let cases: [Case; 18] = [
        (
            |state| state.device = DeviceState::Net(NetState { mac: MAC }),
            |error| {
                matches!(
                    error,
                    RestoreError::Kind {
                        state: "net",
                        device: "rng"
                    }
                )
            },
        ),
        (
            |state| state.registers.status = 7,
            |error| matches!(error, RestoreError::Status { status: 7 }),
        ),
        (
            |state| state.registers.status = 3,
            |error| matches!(error, RestoreError::TooEarly { status: 3 }),
        ),
        (
            |state| state.registers.status = 0,
            |error| matches!(error, RestoreError::TooEarly { status: 0 }),
        ),
        (
            |state| state.registers.status = 11,
            |error| {
                matches!(
                    error,
                    RestoreError::Positions {
                        state: 1,
                        running: 0
                    }
                )
            },
        ),
        (
            |state| state.registers.driver_features |= 1 << 5,
            |error| matches!(error, RestoreError::Features { .. }),
        ),
        (
            |state| state.registers.driver_features = 0,
            |error| matches!(error, RestoreError::Features { agreed: 0, .. }),
        ),
        (
            |state| state.registers.queues.clear(),
            |error| {
                matches!(
                    error,
                    RestoreError::QueueCount {
                        state: 0,
                        device: 1
                    }
                )
            },
        ),
        (
            |state| state.queues.clear(),
            |error| {
                matches!(
                    error,
                    RestoreError::Positions {
                        state: 0,
                        running: 1
                    }
                )
            },
        ),
        (
            |state| state.queues.push(state.queues[0]),
            |error| {
                matches!(
                    error,
                    RestoreError::Positions {
                        state: 2,
                        running: 1
                    }
                )
            },
        ),
        (
            |state| state.registers.queues[0].ready = false,
            |error| {
                matches!(
                    error,
                    RestoreError::Queues(SetupError::NotReady { index: 0 })
                )
            },
        ),
        (
            |state| state.registers.queues[0].size = 0x1_0008,
            |error| {
                matches!(
                    error,
                    RestoreError::Queues(SetupError::Rings { size: 0x1_0008, .. })
                )
            },
        ),
        (
            |state| state.registers.queues[0].device = u64::MAX - 3,
            |error| {
                matches!(
                    error,
                    RestoreError::Queues(SetupError::OutOfMemory { index: 0 })
                )
            },
        ),
        (
            |state| state.queues[0].next_avail = 4,
            |error| {
                matches!(
                    error,
                    RestoreError::InFlight {
                        next_avail: 4,
                        next_used: 3,
                        ..
                    }
                )
            },
        ),
        (
            |state| {
                state.queues[0] = QueueState {
                    next_avail: 2,
                    next_used: 2,
                }
            },
            |error| {
                matches!(
                    error,
                    RestoreError::UsedRing {
                        next_used: 2,
                        in_memory: 3,
                        ..
                    }
                )
            },
        ),
        (
            |state| state.interrupt_status = 5,
            |error| {
                matches!(
                    error,
                    RestoreError::Interrupt {
                        interrupt_status: 5,
                        ..
                    }
                )
            },
        ),
        (
            |state| {
                state.registers.status = 131;
                state.queues.clear();
            },
            |error| {
                matches!(
                    error,
                    RestoreError::Interrupt {
                        interrupt_status: 1,
                        status: 131
                    }
                )
            },
        ),
        (
            |state| state.unannounced = true,
            |error| matches!(error, RestoreError::Unannounced),
        ),
    ];
    let mut source = Driver::start(Rng::new());
    for _ in 0..3 {
        source.request(0, &[Part::Write(BUFFERS, 8)]);
    }
    for (case, (alter, is_expected)) in cases.iter().enumerate() {
        let mut state = source.transport.save();
        alter(&mut state);
        let error = source.resume(Rng::new(), &state).err();
        assert!(
            error.as_ref().is_some_and(is_expected),
            "case {case}: {error:?}"
        );
    }
    assert_eq!(source.request(0, &[Part::Write(BUFFERS, 8)]), Some(8));
}

#[test]
fn memory_of_another_moment_is_refused() {
    let mut source = Driver::start(Rng::new());
    let state = source.transport.save();
    source.request(0, &[Part::Write(BUFFERS, 8)]);
    assert!(matches!(
        source.resume(Rng::new(), &state).err(),
        Some(RestoreError::UsedRing {
            index: 0,
            next_used: 0,
            in_memory: 1
        })
    ));
}

fn queue_setup() -> impl Strategy<Value = QueueSetupState> {
    let size = prop_oneof![Just(8u32), Just(64), Just(128), Just(256), any::<u32>()];
    let place = || {
        prop_oneof![
            4 => (0..0x40u64).prop_map(|page| page << 12),
            1 => Just((4 << 20) - 0x10u64),
            1 => any::<u64>(),
        ]
    };
    (size, prop::bool::weighted(0.9), place(), place(), place()).prop_map(
        |(size, ready, desc, driver, device)| QueueSetupState {
            size,
            ready,
            desc,
            driver,
            device,
        },
    )
}

fn device() -> impl Strategy<Value = DeviceState> {
    let disk = any::<Option<(u64, bool)>>().prop_map(|disk| {
        let disk = disk.map(|(sectors, read_only)| DiskState { sectors, read_only });
        DeviceState::Block(BlockState { disk })
    });
    let mac = any::<[u8; 6]>().prop_map(|mac| DeviceState::Net(NetState { mac }));
    prop_oneof![Just(DeviceState::Rng), mac, disk]
}

/// What a driver leads to, for the alterations to start from.
fn real_state() -> impl Strategy<Value = TransportState> {
    let status = prop_oneof![3 => Just(15u32), 1 => prop::sample::select(vec![0u32, 1, 3, 11])];
    fn state<D: Device>(device: D, status: u32) -> TransportState {
        let mut driver = Driver::start(device);
        driver.set_up_until(status);
        driver.transport.save()
    }
    (status, device()).prop_map(|(status, device)| match &device {
        DeviceState::Net(net) => state(Net::restore(net).unwrap(), status),
        DeviceState::Block(block) => state(Block::restore(1, block), status),
        _ => state(Rng::new(), status),
    })
}

/// One altered field.
#[derive(Clone, Debug)]
enum Alteration {
    Status(u32),
    Features(u64),
    Selectors([u32; 4]),
    Queue(usize, QueueSetupState),
    QueueCount(usize),
    Interrupt(u32),
    Unannounced,
    Position(usize, QueueState),
    PositionCount(usize),
    Device(DeviceState),
}

fn alteration() -> impl Strategy<Value = Alteration> {
    let status = prop::sample::select(vec![0u32, 1, 3, 11, 15, 79, 131]);
    let position = (0..3u16, 0..3u16).prop_map(|(next_avail, next_used)| QueueState {
        next_avail,
        next_used,
    });
    prop_oneof![
        prop_oneof![status, any::<u32>()].prop_map(Alteration::Status),
        prop_oneof![Just(F_VERSION_1), any::<u64>()].prop_map(Alteration::Features),
        any::<[u32; 4]>().prop_map(Alteration::Selectors),
        (0..2usize, queue_setup()).prop_map(|(at, queue)| Alteration::Queue(at, queue)),
        (0..4usize).prop_map(Alteration::QueueCount),
        prop_oneof![0..4u32, any::<u32>()].prop_map(Alteration::Interrupt),
        Just(Alteration::Unannounced),
        (0..2usize, position).prop_map(|(at, position)| Alteration::Position(at, position)),
        (0..4usize).prop_map(Alteration::PositionCount),
        device().prop_map(Alteration::Device),
    ]
}

impl Alteration {
    fn apply(self, state: &mut TransportState) {
        let none = QueueState {
            next_avail: 0,
            next_used: 0,
        };
        let registers = &mut state.registers;
        match self {
            Self::Status(status) => registers.status = status,
            Self::Features(features) => registers.driver_features = features,
            Self::Selectors([device, driver, queue, generation]) => {
                registers.device_features_sel = device;
                registers.driver_features_sel = driver;
                registers.queue_sel = queue;
                registers.generation = generation;
            }
            Self::Queue(at, queue) => {
                if let Some(old) = registers.queues.get_mut(at) {
                    *old = queue;
                }
            }
            Self::QueueCount(count) => {
                let last = registers.queues.last().copied();
                let last = last.unwrap_or(QueueSetupState {
                    size: 8,
                    ready: true,
                    desc: 0,
                    driver: 0,
                    device: 0,
                });
                registers.queues.resize(count, last);
            }
            Self::Interrupt(status) => state.interrupt_status = status,
            Self::Unannounced => state.unannounced = true,
            Self::Position(at, position) => {
                if let Some(old) = state.queues.get_mut(at) {
                    *old = position;
                }
            }
            Self::PositionCount(count) => state.queues.resize(count, none),
            Self::Device(device) => state.device = device,
        }
    }
}

/// Restores `state` over memory full of `byte`. What comes of it must work like any device.
fn try_restore<D: Device>(device: D, state: &TransportState, byte: u8) -> bool {
    let memory = memory();
    let fill = vec![byte; 1 << 20];
    vm_memory::Bytes::write_slice(&memory, &fill, vm_memory::GuestAddress(0)).unwrap();
    let Ok(transport) = MmioTransport::restore(device, memory.clone(), state) else {
        return false;
    };
    assert_eq!(transport.save(), *state);
    let queues = transport.notifiers().map(|(index, _)| {
        let sizes = transport.identity.queue_sizes;
        let index = usize::try_from(index).unwrap();
        DriverQueue::new(memory.clone(), index, sizes[index])
    });
    let queues = queues.collect();
    let mut driver = Driver {
        transport,
        memory,
        queues,
    };
    for index in 0..5 {
        driver.kick(index);
        driver.transport.handle(Event::Device);
    }
    driver.set_up_until(15);
    driver
        .queues
        .last_mut()
        .unwrap()
        .add(&[Part::Read(BUFFERS, 8)]);
    driver.kick(driver.queues.len() - 1);
    assert_eq!(driver.queues.last_mut().unwrap().take(), Some((0, 0)));
    true
}

fn try_restore_any(state: &TransportState, byte: u8) -> bool {
    match &state.device {
        DeviceState::Net(net) => try_restore(Net::restore(net).unwrap(), state, byte),
        DeviceState::Block(block) => try_restore(Block::restore(1, block), state, byte),
        _ => try_restore(Rng::new(), state, byte),
    }
}

proptest! {
    #[test]
    fn any_state_is_refused_or_works(
        state in real_state(),
        alterations in proptest::collection::vec(alteration(), 0..4),
        byte in prop_oneof![6 => Just(0u8), 1 => any::<u8>()],
    ) {
        let mut altered = state;
        for alteration in alterations {
            alteration.apply(&mut altered);
        }
        try_restore_any(&altered, byte);
    }

    /// The same in the bytes of a file.
    #[test]
    fn an_altered_state_is_refused_or_works(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let state = Driver::start(Net::new(MAC).unwrap()).transport.save();
        prop_assert!(try_restore_any(&state, 0));
        let mut bytes = postcard::to_stdvec(&state).unwrap();
        for (at, value) in changes {
            *at.get_mut(&mut bytes) = value;
        }
        if let Ok(state) = postcard::from_bytes(&bytes) {
            try_restore_any(&state, 0);
        }
    }
}
