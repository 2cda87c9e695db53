// SPDX-License-Identifier: Apache-2.0
//! Tests of the device through its queue.

use super::{MAX_REQUEST_BYTES, Rng};
use crate::testing::{BUFFERS, Driver, Part};

#[test]
fn fills_what_is_asked_for() {
    let mut driver = Driver::start(Rng::new());
    assert_eq!(
        driver.request(
            0,
            &[Part::Write(BUFFERS, 64), Part::Write(BUFFERS + 100, 5)]
        ),
        Some(69)
    );
    assert_ne!(driver.peek(BUFFERS, 64), [0; 64]);
    assert_eq!(driver.peek(BUFFERS + 64, 36), [0; 36]);
    assert_ne!(driver.peek(BUFFERS + 100, 5), [0; 5]);
    assert_eq!(driver.peek(BUFFERS + 105, 100), [0; 100]);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn two_requests_get_different_bytes() {
    let mut driver = Driver::start(Rng::new());
    driver.request(0, &[Part::Write(BUFFERS, 32)]);
    let first = driver.peek(BUFFERS, 32);
    driver.request(0, &[Part::Write(BUFFERS, 32)]);
    assert_ne!(first, driver.peek(BUFFERS, 32));
}

#[test]
fn one_request_gets_no_more_than_the_bound() {
    let mut driver = Driver::start(Rng::new());
    let bound = u32::try_from(MAX_REQUEST_BYTES).unwrap();
    assert_eq!(
        driver.request(0, &[Part::Write(BUFFERS, 10 * bound)]),
        Some(bound)
    );
    assert_eq!(driver.peek(BUFFERS + u64::from(bound), 100), [0; 100]);
}

#[test]
fn a_buffer_outside_of_memory_gets_nothing() {
    let mut driver = Driver::start(Rng::new());
    assert_eq!(
        driver.request(0, &[Part::Write(u64::MAX - 10, 64)]),
        Some(0)
    );
    assert_eq!(driver.request(0, &[Part::Read(BUFFERS, 64)]), Some(0));
    assert_eq!(driver.request(0, &[Part::Write(BUFFERS, 0)]), Some(0));
}
