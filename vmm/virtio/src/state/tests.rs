// SPDX-License-Identifier: Apache-2.0
//! The format as a file, so that a change of it is seen.

use serde::Serialize;

use super::*;

#[derive(Serialize)]
struct Golden {
    version: u32,
    transports: Vec<TransportState>,
    /// The same, each as postcard writes it.
    postcard: Vec<String>,
}

fn transports() -> Vec<TransportState> {
    let queue = QueueSetupState {
        size: 64,
        ready: true,
        desc: 0x1_0000,
        driver: 0x1_0400,
        device: 0x1_3000,
    };
    let running = |device| TransportState {
        registers: RegistersState {
            status: 15,
            driver_features: 1 << 32 | 1 << 29,
            device_features_sel: 1,
            driver_features_sel: 2,
            queue_sel: 3,
            generation: 4,
            queues: vec![queue],
        },
        interrupt_status: 1,
        unannounced: false,
        queues: vec![QueueState {
            next_avail: 300,
            next_used: 301,
        }],
        device,
    };
    let vsock = |interruption| {
        DeviceState::Vsock(VsockState {
            next_port: 1 << 30,
            refusals: vec![RefusalState {
                host_port: 5,
                guest_port: 6,
                kind: 1,
            }],
            interruption,
        })
    };
    let disk = Some(DiskState {
        sectors: 2048,
        read_only: true,
    });
    vec![
        running(vsock(InterruptionState::None)),
        running(vsock(InterruptionState::Unannounced { connections: 7 })),
        running(vsock(InterruptionState::Announced { available: 8 })),
        running(DeviceState::Rng),
        running(DeviceState::Net(NetState {
            mac: [2, 0, 0, 0, 0, 1],
        })),
        running(DeviceState::Block(BlockState { disk: None })),
        running(DeviceState::Block(BlockState { disk })),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_format_is_the_one_in_the_file() {
    let transports = transports();
    let encode = |state| hex(&postcard::to_stdvec(state).unwrap());
    let golden = Golden {
        version: STATE_VERSION,
        postcard: transports.iter().map(encode).collect(),
        transports,
    };
    let text = serde_json::to_string_pretty(&golden).unwrap() + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/state_golden.json");
    if std::env::var_os("CUBE_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(path).unwrap(),
        "the saved state changed; if meant, raise STATE_VERSION (now {STATE_VERSION}) and run \
         again with CUBE_UPDATE_GOLDEN=1"
    );
}

#[test]
fn the_format_can_be_read_back() {
    for state in transports() {
        let bytes = postcard::to_stdvec(&state).unwrap();
        assert_eq!(
            postcard::from_bytes::<TransportState>(&bytes).unwrap(),
            state
        );
    }
}

#[test]
fn the_state_of_another_kind_is_refused() {
    let rng = DeviceState::Rng;
    assert!(rng.vsock().is_err() && rng.net().is_err() && rng.block().is_err());
    assert_eq!(
        rng.vsock().unwrap_err().to_string(),
        "the state of a rng device is not one of a vsock device"
    );
}
