// SPDX-License-Identifier: Apache-2.0
//! The switches `-info` (containerd 2.x asks what the runtime can do) and `-v` (a person asks).

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

/// What containerd calls us.
const RUNTIME: &str = "io.cube.v1";
/// The name under which containerd's Go types find OCI features.
const FEATURES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// OCI runtime features (features.md), as far as a client decides by them: no id-mapped mounts.
const FEATURES: &str = r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0","mountExtensions":{"idmap":{"enabled":false}}}"#;

/// A `RuntimeInfo` for standard output. The options on standard input change nothing in it, so
/// they are left unread.
pub fn runtime_info() -> anyhow::Result<Vec<u8>> {
    let version = RuntimeVersion {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let features = Any {
        type_url: FEATURES_URL.to_owned(),
        value: FEATURES.as_bytes().to_vec(),
        ..Default::default()
    };
    let info = RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: Some(version).into(),
        features: Some(features).into(),
        ..Default::default()
    };
    Ok(info.write_to_bytes()?)
}

/// One line for a person.
pub fn version() -> Vec<u8> {
    format!("containerd-shim-cube-v1 {}\n", env!("CARGO_PKG_VERSION")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_learns_our_name_and_features() {
        let info = RuntimeInfo::parse_from_bytes(&runtime_info().unwrap()).unwrap();
        assert_eq!(info.name, "io.cube.v1");
        let features: serde_json::Value =
            serde_json::from_slice(&info.features.unwrap().value).unwrap();
        assert_eq!(features["mountExtensions"]["idmap"]["enabled"], false);
    }
}
