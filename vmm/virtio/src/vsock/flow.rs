// SPDX-License-Identifier: Apache-2.0
//! Credit (virtio 1.2, section 5.10.6.3): each side tells how large its buffer is (`buf_alloc`) and
//! how many bytes have left it (`fwd_cnt`), and the other sends no more than fits. Counters wrap.

use std::num::Wrapping;

use super::BUF_ALLOC;
use super::packet::Header;

/// Data from the guest: this side has the buffer.
#[derive(Debug, Default)]
pub(super) struct FromGuest {
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// `forwarded` as the guest last heard it.
    announced: Wrapping<u32>,
}

impl FromGuest {
    /// Takes `len` bytes into the buffer; false when the guest had no right to send them.
    #[must_use]
    pub fn admit(&mut self, len: usize) -> bool {
        let held = (self.received - self.forwarded).0;
        match u32::try_from(len)
            .ok()
            .and_then(|len| Some((len, held.checked_add(len)?)))
        {
            Some((len, total)) if total <= BUF_ALLOC => {
                self.received += len;
                true
            }
            _ => false,
        }
    }

    /// `len` bytes have left the buffer.
    pub fn forward(&mut self, len: usize) {
        // No more leaves the buffer than was admitted, which is below 4 GiB.
        self.forwarded += u32::try_from(len).unwrap_or(0);
    }

    /// Whether the guest should hear of the room there is now: when half of it is news, or when
    /// it may be about to stop for the lack of it. Anything else it learns with the next packet.
    pub fn update_due(&self) -> bool {
        // What is left then is less than the largest packet.
        const LOW: u32 = BUF_ALLOC - BUF_ALLOC / 4;
        let news = (self.forwarded - self.announced).0;
        let used = (self.received - self.announced).0;
        news >= BUF_ALLOC / 2 || (news > 0 && used > LOW)
    }

    /// Tells the guest in `header`, as every packet does.
    pub fn announce(&mut self, header: &mut Header) {
        header.buf_alloc = BUF_ALLOC;
        header.fwd_cnt = self.forwarded.0;
        self.announced = self.forwarded;
    }
}

/// Data to the guest: the guest has the buffer.
#[derive(Debug, Default)]
pub(super) struct ToGuest {
    sent: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    buf_alloc: u32,
}

impl ToGuest {
    /// How many bytes may be sent now.
    pub fn credit(&self) -> usize {
        let in_flight = (self.sent - self.forwarded).0;
        self.buf_alloc.saturating_sub(in_flight) as usize
    }

    /// `len` bytes of the credit are spent.
    pub fn send(&mut self, len: usize) {
        self.sent += u32::try_from(len).unwrap_or(u32::MAX);
    }

    /// What the guest says in each of its packets. Its CPUs may queue packets out of order, so an
    /// older count is passed over, and so is one of bytes that were never sent.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.buf_alloc = buf_alloc;
        let progress = Wrapping(fwd_cnt) - self.forwarded;
        if progress <= self.sent - self.forwarded {
            self.forwarded = Wrapping(fwd_cnt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_may_fill_the_buffer_and_no_more() {
        let mut flow = FromGuest::default();
        assert!(flow.admit(BUF_ALLOC as usize));
        assert!(!flow.admit(1));
        flow.forward(10);
        assert!(flow.admit(10));
        assert!(!flow.admit(1));
        assert!(!flow.admit(usize::MAX));
    }

    #[test]
    fn update_is_due_at_half_or_when_the_guest_may_stop() {
        let mut flow = FromGuest::default();
        assert!(flow.admit(BUF_ALLOC as usize));
        assert!(!flow.update_due());
        flow.forward(1);
        assert!(flow.update_due());
        flow.announce(&mut Header::default());
        assert!(!flow.update_due());

        let mut flow = FromGuest::default();
        assert!(flow.admit(BUF_ALLOC as usize / 2));
        flow.forward(BUF_ALLOC as usize / 2 - 1);
        assert!(!flow.update_due());
        flow.forward(1);
        assert!(flow.update_due());
    }

    #[test]
    fn counters_wrap() {
        let mut flow = ToGuest {
            sent: Wrapping(u32::MAX - 1),
            forwarded: Wrapping(u32::MAX - 1),
            buf_alloc: 100,
        };
        flow.send(100);
        assert_eq!(flow.credit(), 0);
        flow.update(100, 10);
        assert_eq!(flow.credit(), 12);
    }

    #[test]
    fn stale_and_impossible_counts_change_nothing() {
        let mut flow = ToGuest::default();
        flow.update(100, 0);
        flow.send(50);
        flow.update(100, 40);
        assert_eq!(flow.credit(), 90);
        flow.update(100, 30);
        assert_eq!(flow.credit(), 90);
        flow.update(100, 51);
        assert_eq!(flow.credit(), 90);
        flow.update(20, 50);
        assert_eq!(flow.credit(), 20);
        flow.update(0, 50);
        assert_eq!(flow.credit(), 0);
    }
}
