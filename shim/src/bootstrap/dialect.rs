// SPDX-License-Identifier: Apache-2.0
//! How containerd asked for a shim, and the answer it will understand.
//!
//! | containerd | asks with | understands |
//! |---|---|---|
//! | 1.6 | flags; options or nothing on standard input | a plain address |
//! | 1.7 | the same | a plain address, or JSON of version 2 |
//! | 2.0 to 2.2 | the same | a plain address (task v2), or JSON of version 3 (task v3) |
//! | 2.3 and later | `BootstrapParams` on standard input | `BootstrapResult`, and the others |
//!
//! 2.0 to 2.2 cannot be told from 1.7 (all say `MAX_SHIM_VERSION=2`), so JSON is the operator's
//! choice: `task_v3` in the configuration.

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use serde::Serialize;

use crate::args::Flags;

/// The newest version of the task API that this shim serves.
const TASK_VERSION: i32 = 3;
/// Both services are ttrpc.
const PROTOCOL: &str = "ttrpc";
/// `LogLevel` of the bootstrap message: debug and everything below it is verbose.
const LOG_LEVEL_DEBUG: i32 = -4;

/// What containerd said besides the flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Invitation {
    dialect: Dialect,
    /// Where the socket is to be; none: the usual place.
    pub socket_dir: Option<PathBuf>,
    /// Where containerd takes events, if it said so here.
    pub ttrpc_address: Option<String>,
    /// Whether a verbose log was asked for here.
    pub debug: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Plain,
    Json,
    Message,
}

/// containerd 2.0's answer, field by field.
#[derive(Serialize)]
struct JsonReply<'a> {
    version: i32,
    address: &'a str,
    protocol: &'a str,
}

impl Invitation {
    /// Reads what was on standard input.
    ///
    /// Runtime options (`google.protobuf.Any`) parse as `BootstrapParams` too, with the type's URL as
    /// the id: only a message that repeats the flags is one.
    pub fn read(stdin: &[u8], flags: &Flags, task_v3: bool) -> Self {
        let params = BootstrapParams::parse_from_bytes(stdin).ok();
        let params = params
            .filter(|params| params.instance_id == flags.id && params.namespace == flags.namespace);
        let Some(params) = params else {
            return Self {
                dialect: if task_v3 {
                    Dialect::Json
                } else {
                    Dialect::Plain
                },
                socket_dir: None,
                ttrpc_address: None,
                debug: false,
            };
        };
        Self {
            dialect: Dialect::Message,
            debug: params.log_level.value() <= LOG_LEVEL_DEBUG,
            socket_dir: params.socket_dir.and_then(not_empty).map(PathBuf::from),
            ttrpc_address: not_empty(params.containerd_ttrpc_address),
        }
    }

    /// The answer for standard output.
    pub fn reply(&self, address: &str) -> Vec<u8> {
        match self.dialect {
            Dialect::Plain => address.as_bytes().to_vec(),
            Dialect::Json => serde_json::to_vec(&JsonReply {
                version: TASK_VERSION,
                address,
                protocol: PROTOCOL,
            })
            .expect("two strings and a number are always JSON"),
            Dialect::Message => BootstrapResult {
                version: TASK_VERSION,
                address: address.to_owned(),
                protocol: PROTOCOL.to_owned(),
                ..Default::default()
            }
            .write_to_bytes()
            .expect("a message of three small fields can be encoded"),
        }
    }
}

fn not_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "unix:///run/containerd/s/ab";

    fn flags() -> Flags {
        Flags {
            namespace: "default".into(),
            id: "t1".into(),
            ..Flags::default()
        }
    }

    #[test]
    fn nothing_on_stdin_gets_the_plain_address() {
        let invitation = Invitation::read(b"", &flags(), false);
        assert_eq!(invitation.reply(ADDRESS), b"unix:///run/containerd/s/ab");
    }

    #[test]
    fn options_on_stdin_are_not_taken_for_the_message_of_2_3() {
        // Any{type_url: "containerd.runc.v1.Options", value: {no_pivot_root: true}}
        let any = b"\x0a\x1acontainerd.runc.v1.Options\x12\x02\x08\x01";
        let invitation = Invitation::read(any, &flags(), false);
        assert_eq!(invitation.dialect, Dialect::Plain);
    }

    #[test]
    fn the_switch_prints_json_of_version_3() {
        let invitation = Invitation::read(b"", &flags(), true);
        assert_eq!(
            invitation.reply(ADDRESS),
            br#"{"version":3,"address":"unix:///run/containerd/s/ab","protocol":"ttrpc"}"#
        );
    }

    #[test]
    fn the_message_of_2_3_gets_a_message() {
        // BootstrapParams{instance_id: "t1", namespace: "default", log_level: DEBUG,
        //                 containerd_ttrpc_address: "/c.ttrpc", socket_dir: "/s"}
        let params = b"\x0a\x02t1\x12\x07default\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01\
                       \x2a\x08/c.ttrpc\x4a\x02/s";
        let invitation = Invitation::read(params, &flags(), true);
        assert_eq!(invitation.dialect, Dialect::Message);
        assert_eq!(invitation.socket_dir, Some("/s".into()));
        assert_eq!(invitation.ttrpc_address.as_deref(), Some("/c.ttrpc"));
        assert!(invitation.debug);
        // BootstrapResult{version: 3, address, protocol: "ttrpc"}
        assert_eq!(
            invitation.reply(ADDRESS),
            b"\x08\x03\x12\x1bunix:///run/containerd/s/ab\x1a\x05ttrpc"
        );
    }

    #[test]
    fn a_message_for_somebody_else_is_not_ours() {
        let params = b"\x0a\x02t2\x12\x07default";
        let invitation = Invitation::read(params, &flags(), false);
        assert_eq!(invitation.dialect, Dialect::Plain);
    }
}
