// SPDX-License-Identifier: Apache-2.0
//! Every message that crosses between host and guest.
//!
//! Three ports of the guest's vsock: [`CONTROL_PORT`] carries the ttrpc services of [`v1`], [`STREAM_PORT`]
//! the bytes of processes, one connection per stream, each opened by a [`StreamHello`], and [`PLANE_PORT`]
//! what the plane moves (jobs' output, files, watches), one connection each, in frames ([`FrameHeader`]).
//!
//! Not here: transport (vsock on one side, a Unix socket on the other) and behaviour. The agent serves
//! these messages, `cube-runtime` sends them.
//!
//! A change that adds an optional field or a call keeps [`PROTOCOL_VERSION`]; anything that an older peer
//! would misread raises it. `tests/surface.rs` freezes both forms, so that either is a reviewed change.

mod frame;
mod stream;

pub use frame::{
    FrameError, FrameHeader, FrameKind, HEADER_LEN, MAX_PAYLOAD_LEN, Received,
    encode as encode_frame,
};
pub use stream::{HelloError, MAX_HELLO_LEN, MAX_ID_LEN, Stdio, StreamAnswer, StreamHello};

/// Messages and the ttrpc services of `proto/agent.proto` and `proto/plane.proto`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "generated code; the documentation is in the proto files"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/protocol.rs"));
}

/// Version of this protocol; host and agent must agree on it before anything else is said.
pub const PROTOCOL_VERSION: u32 = 2;

/// vsock port of the ttrpc service.
pub const CONTROL_PORT: u32 = 1024;

/// vsock port of the stdio streams.
pub const STREAM_PORT: u32 = 1025;

/// vsock port that leads to the guest's TCP ports. The host sends a port (u16, big-endian), the agent answers with
/// one byte, 0 or an error number of Linux, and behind a 0 the connection is the port's.
pub const TCP_PORT: u32 = 1027;

/// vsock port of what the plane moves.
pub const PLANE_PORT: u32 = 1026;

/// vsock port of names. The host connects and answers what the guest asks: both ways are DNS messages as TCP carries
/// them (RFC 7766: a length as u16, the message), answers in any order, each with the id of its question. A new
/// connection takes the place of the one before.
pub const DNS_PORT: u32 = 1028;

/// Longest question on the DNS port: the longest name, and room for options.
pub const MAX_DNS_QUESTION: usize = 1232;
