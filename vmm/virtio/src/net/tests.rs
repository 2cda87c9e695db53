// SPDX-License-Identifier: Apache-2.0
//! Tests of the device through its queues.

use super::Net;
use crate::testing::{BUFFERS, Driver, Part};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[test]
fn has_its_address_and_no_link() {
    let driver = Driver::start(Net::new(MAC));
    assert_eq!(driver.config(0), MAC);
    assert_eq!(driver.config(6), [0, 0]);
}

#[test]
fn discards_what_is_sent_and_receives_nothing() {
    let mut driver = Driver::start(Net::new(MAC));
    driver.queues[0].add(&[Part::Write(BUFFERS, 1500)]);
    driver.kick(0);
    // More packets than the queue is long, so that it wraps.
    for _ in 0..600 {
        let frame = [
            Part::Read(BUFFERS + 0x1000, 12),
            Part::Read(BUFFERS + 0x2000, 1500),
        ];
        assert_eq!(driver.request(1, &frame), Some(0));
    }
    assert_eq!(driver.queues[0].take(), None);
}
