// SPDX-License-Identifier: Apache-2.0
//! What was read from one socket of the host and not yet sent to the guest.
//!
//! One area serves all connections: a socket is read only when the area is empty and the guest has
//! a buffer, so what is in it goes out as fast as the guest takes anything.

use super::MAX_PACKET_BYTES;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Staging {
    /// Whose data it is.
    pub port: u32,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Staging {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// The empty area, for up to `limit` bytes of `port`.
    pub fn buffer(&mut self, port: u32, limit: usize) -> &mut [u8] {
        self.clear();
        self.port = port;
        self.buffer.resize(MAX_PACKET_BYTES, 0);
        let len = limit.min(MAX_PACKET_BYTES);
        self.buffer.get_mut(..len).unwrap_or_default()
    }

    /// `len` bytes of the area were filled.
    pub fn filled(&mut self, len: usize) {
        self.end = len.min(self.buffer.len());
    }

    /// The next `len` bytes, which are there.
    pub fn take(&mut self, len: usize) -> &[u8] {
        let start = self.start;
        self.start = self.end.min(start + len);
        self.buffer.get(start..self.start).unwrap_or_default()
    }
}
