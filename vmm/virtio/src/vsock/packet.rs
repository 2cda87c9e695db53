// SPDX-License-Identifier: Apache-2.0
//! struct virtio_vsock_hdr (virtio 1.2, section 5.10.6), as bytes and as something that has been
//! checked.

use super::{GUEST_CID, HOST_CID, MAX_PACKET_BYTES};

pub(super) const HEADER_BYTES: usize = 44;

/// VIRTIO_VSOCK_TYPE_STREAM, the only type there is here.
const TYPE_STREAM: u16 = 1;

/// SHUTDOWN flags: the sender will not receive any more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// SHUTDOWN flags: the sender will not send any more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

/// Which connection: its port on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// Operations (section 5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    fn parse(op: u16) -> Option<Self> {
        let all = [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ];
        all.into_iter().find(|known| *known as u16 == op)
    }
}

/// The header, field for field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    pub len: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    /// A packet from the host to the guest.
    pub fn to_guest(ports: Ports, op: Op) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: GUEST_CID,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: TYPE_STREAM,
            op: op as u16,
            ..Self::default()
        }
    }

    /// The answer to a packet that belongs to no connection.
    fn refuse(&self) -> Self {
        let ports = Ports {
            host: self.dst_port,
            guest: self.src_port,
        };
        // Linux looks for its socket by type as well.
        Self {
            kind: self.kind,
            ..Self::to_guest(ports, Op::Reset)
        }
    }

    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        Self {
            src_cid: u64::from_le_bytes(field(bytes, 0)),
            dst_cid: u64::from_le_bytes(field(bytes, 8)),
            src_port: u32::from_le_bytes(field(bytes, 16)),
            dst_port: u32::from_le_bytes(field(bytes, 20)),
            len: u32::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 28)),
            op: u16::from_le_bytes(field(bytes, 30)),
            flags: u32::from_le_bytes(field(bytes, 32)),
            buf_alloc: u32::from_le_bytes(field(bytes, 36)),
            fwd_cnt: u32::from_le_bytes(field(bytes, 40)),
        }
    }

    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// A packet of the guest that is in order as far as it can be told without its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub ports: Ports,
    pub op: Op,
    /// Bytes of data, all there; zero unless `op` is Data.
    pub len: usize,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
    /// What to answer if there is no such connection.
    pub refusal: Option<Header>,
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Malformed {
    /// Not from this guest or not to this host: it is dropped, as by vhost.
    Misaddressed,
    /// Of no known type or operation, or with less data than it says: its connection, if there is
    /// one, cannot go on.
    Meaningless(Ports, Header),
}

impl Packet {
    /// `available`: how many bytes follow the header.
    pub fn parse(header: &Header, available: usize) -> Result<Self, Malformed> {
        if header.src_cid != GUEST_CID || header.dst_cid != HOST_CID {
            return Err(Malformed::Misaddressed);
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let meaningless = Malformed::Meaningless(ports, header.refuse());
        let op = Op::parse(header.op)
            .filter(|_| header.kind == TYPE_STREAM)
            .ok_or(meaningless)?;
        let len = match op {
            Op::Data => usize::try_from(header.len).map_err(|_| meaningless)?,
            _ => 0,
        };
        if len > available || len > MAX_PACKET_BYTES {
            return Err(meaningless);
        }
        Ok(Self {
            ports,
            op,
            len,
            flags: header.flags,
            buf_alloc: header.buf_alloc,
            fwd_cnt: header.fwd_cnt,
            refusal: (op != Op::Reset).then(|| header.refuse()),
        })
    }
}

/// `N` bytes at `at`, which is a constant within the header.
fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("every field is within the header")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive_a_round_trip(bytes: [u8; HEADER_BYTES]) {
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn any_bytes_parse_to_something_bounded(bytes: [u8; HEADER_BYTES], available: u16) {
            let available = usize::from(available);
            if let Ok(packet) = Packet::parse(&Header::from_bytes(&bytes), available) {
                prop_assert!(packet.len <= available);
            }
        }
    }

    fn from_guest(op: Op, len: u32) -> Header {
        let ports = Ports {
            host: 7,
            guest: 1024,
        };
        let header = Header::to_guest(ports, op);
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: 1024,
            dst_port: 7,
            len,
            ..header
        }
    }

    #[test]
    fn layout_is_that_of_the_specification() {
        let bytes = Header {
            op: 0x0102,
            fwd_cnt: 0x0a0b_0c0d,
            src_cid: 3,
            ..Header::default()
        }
        .to_bytes();
        assert_eq!(bytes[0], 3);
        assert_eq!(bytes[30..32], [2, 1]);
        assert_eq!(bytes[40..44], [0x0d, 0x0c, 0x0b, 0x0a]);
    }

    #[test]
    fn data_that_is_not_there_is_meaningless() {
        assert!(matches!(
            Packet::parse(&from_guest(Op::Data, 10), 9),
            Err(Malformed::Meaningless(..))
        ));
        assert_eq!(
            Packet::parse(&from_guest(Op::Data, 10), 10).unwrap().len,
            10
        );
        let most = u32::try_from(MAX_PACKET_BYTES).unwrap();
        assert!(Packet::parse(&from_guest(Op::Data, most + 1), usize::MAX).is_err());
    }

    #[test]
    fn a_reset_is_not_answered_and_a_refusal_goes_back() {
        assert_eq!(
            Packet::parse(&from_guest(Op::Reset, 0), 0).unwrap().refusal,
            None
        );
        let refusal = Packet::parse(&from_guest(Op::Request, 0), 0)
            .unwrap()
            .refusal
            .unwrap();
        assert_eq!(
            (refusal.src_port, refusal.dst_port, refusal.op),
            (7, 1024, Op::Reset as u16)
        );
        assert_eq!((refusal.src_cid, refusal.dst_cid), (HOST_CID, GUEST_CID));
    }

    #[test]
    fn other_addresses_are_dropped() {
        for (src_cid, dst_cid) in [(2, 2), (3, 3), (3, u64::MAX), (4, 2)] {
            let header = Header {
                src_cid,
                dst_cid,
                ..from_guest(Op::Request, 0)
            };
            assert!(matches!(
                Packet::parse(&header, 0),
                Err(Malformed::Misaddressed)
            ));
        }
    }
}
