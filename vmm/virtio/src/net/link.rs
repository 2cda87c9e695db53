// SPDX-License-Identifier: Apache-2.0
//! What a wire is to the device.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use super::feature;

/// The host's end of an interface: a descriptor of which each read is one frame and each write is
/// one, with a header of 12 bytes in front (`struct virtio_net_hdr_v1`). It never blocks.
pub trait Link: AsFd + Send + fmt::Debug {
    /// Says what may be in the headers of received frames. Frames that are sent may always have
    /// all of it.
    fn set_offload(&self, offload: Offload) -> io::Result<()>;
}

/// What the guest can do without in a frame that it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Checksums of TCP and UDP.
    pub checksum: bool,
    /// Cutting of TCP over IPv4.
    pub tso4: bool,
    /// Cutting of TCP over IPv6.
    pub tso6: bool,
    /// Cutting of TCP with congestion marks.
    pub ecn: bool,
}

impl Offload {
    /// What a driver has agreed to.
    pub(super) fn of(features: u64) -> Self {
        let has = |bit| features & bit != 0;
        // The bits of cutting mean nothing without the one of checksums (section 5.1.3.1).
        let checksum = has(feature::GUEST_CSUM);
        let tso4 = checksum && has(feature::GUEST_TSO4);
        let tso6 = checksum && has(feature::GUEST_TSO6);
        Self {
            checksum,
            tso4,
            tso6,
            ecn: (tso4 || tso6) && has(feature::GUEST_ECN),
        }
    }
}
