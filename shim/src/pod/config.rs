// SPDX-License-Identifier: Apache-2.0
//! The few wishes a machine takes from CRI's `PodSandboxConfig` (cri-api, runtime/v1/api.proto).
//!
//! Read by field number: six fields of a few messages are not worth CRI's whole schema.

use std::collections::HashMap;

use protobuf::CodedInputStream;
use protobuf::rt::WireType;

use crate::error::TaskError;

const HOSTNAME: u32 = 2;
const ANNOTATIONS: u32 = 7;
const LINUX: u32 = 8;
/// Fields of `LinuxPodSandboxConfig`.
const CGROUP_PARENT: u32 = 1;
/// See above.
const SECURITY_CONTEXT: u32 = 2;
/// Field of `LinuxSandboxSecurityContext`.
const NAMESPACE_OPTIONS: u32 = 1;
/// Field of `NamespaceOption`.
const NETWORK: u32 = 1;
/// `NamespaceMode`: the host's.
const NODE: u64 = 2;

/// What a pod wants of its machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PodConfig {
    /// Empty: the sandbox's id.
    pub hostname: String,
    /// Empty: nowhere in particular.
    pub cgroup_parent: String,
    /// Whether it is to live in the host's network.
    pub host_network: bool,
    /// What others may read of it, and runtimes of their own.
    pub annotations: HashMap<String, String>,
}

impl PodConfig {
    /// Reads the message; an empty one is a sandbox that was not made by CRI.
    pub fn parse(message: &[u8]) -> Result<Self, TaskError> {
        read(message).map_err(|_| TaskError::Unsupported {
            what: "a sandbox configuration that is not runtime.v1.PodSandboxConfig",
        })
    }
}

fn read(message: &[u8]) -> protobuf::Result<PodConfig> {
    let linux = bytes(message, LINUX)?;
    let security = bytes(&linux, SECURITY_CONTEXT)?;
    let namespaces = bytes(&security, NAMESPACE_OPTIONS)?;
    Ok(PodConfig {
        hostname: text(bytes(message, HOSTNAME)?),
        cgroup_parent: text(bytes(&linux, CGROUP_PARENT)?),
        host_network: number(&namespaces, NETWORK)? == NODE,
        annotations: map(message, ANNOTATIONS)?,
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A map of texts: entries with the fields 1 and 2, the last one of a key counts.
fn map(message: &[u8], wanted: u32) -> protobuf::Result<HashMap<String, String>> {
    let mut found = HashMap::new();
    scan(message, |field, wire, input| match (field, wire) {
        (field, WireType::LengthDelimited) if field == wanted => {
            let entry = input.read_bytes()?;
            found.insert(text(bytes(&entry, 1)?), text(bytes(&entry, 2)?));
            Ok(())
        }
        (_, wire) => input.skip_field(wire),
    })?;
    Ok(found)
}

/// The last occurrence of a field of bytes; empty if there is none.
fn bytes(message: &[u8], wanted: u32) -> protobuf::Result<Vec<u8>> {
    let mut found = Vec::new();
    scan(message, |field, wire, input| match (field, wire) {
        (field, WireType::LengthDelimited) if field == wanted => {
            found = input.read_bytes()?;
            Ok(())
        }
        (_, wire) => input.skip_field(wire),
    })?;
    Ok(found)
}

/// The last occurrence of a number; 0 if there is none.
fn number(message: &[u8], wanted: u32) -> protobuf::Result<u64> {
    let mut found = 0;
    scan(message, |field, wire, input| match (field, wire) {
        (field, WireType::Varint) if field == wanted => {
            found = input.read_raw_varint64()?;
            Ok(())
        }
        (_, wire) => input.skip_field(wire),
    })?;
    Ok(found)
}

fn scan(
    message: &[u8],
    mut field: impl FnMut(u32, WireType, &mut CodedInputStream<'_>) -> protobuf::Result<()>,
) -> protobuf::Result<()> {
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let wire = WireType::new(tag & 7).unwrap_or(WireType::EndGroup);
        field(tag >> 3, wire, &mut input)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wishes_are_found_among_everything_else() {
        // metadata{name: "p"} hostname: "web" labels{"a": "b"} annotations{"c": "d"}
        // linux{cgroup_parent: "/k" security_context{namespace_options{network: NODE}}}
        let message = b"\x0a\x03\x0a\x01p\x12\x03web\x32\x06\x0a\x01a\x12\x01b\
                        \x3a\x06\x0a\x01c\x12\x01d\
                        \x42\x0a\x0a\x02/k\x12\x04\x0a\x02\x08\x02";
        let config = PodConfig::parse(message).unwrap();
        let expect = PodConfig {
            hostname: "web".into(),
            cgroup_parent: "/k".into(),
            host_network: true,
            annotations: [("c".into(), "d".into())].into(),
        };
        assert_eq!(config, expect);
    }

    #[test]
    fn nothing_wishes_nothing() {
        assert_eq!(PodConfig::parse(b"").unwrap(), PodConfig::default());
    }

    #[test]
    fn garbage_is_refused() {
        assert!(PodConfig::parse(b"\xff\xff\xff").is_err());
        assert!(PodConfig::parse(b"\x12\x7fshort").is_err());
    }
}
