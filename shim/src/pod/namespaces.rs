// SPDX-License-Identifier: Apache-2.0
//! The namespaces of a container whose pod is a machine and nothing else.
//!
//! CRI names a pod's namespaces by path, `/proc/<pid of the sandbox>/ns/...`: those of the pause container.
//! With the sandbox API there is none; the pid is the VMM's, and what the containers of the pod have in common
//! is the machine. So such an entry is left out of the spec that goes to the guest, which is how OCI says
//! "the runtime's own". The network's stays: it is the host's side of the machine's. An entry without a path
//! asks for a new namespace and stays too; CRI writes one for pids unless the pod asked to share them.
//!
//! Called by Create for a container of a pod that the sandbox API keeps.

use serde_json::Value;

/// What a pod's containers share in the guest (runtime-spec, config-linux.md, "Namespaces").
const SHARED: [&str; 3] = ["ipc", "pid", "uts"];

/// The spec without the entries that mean the machine's own namespaces.
pub fn of_the_machine(spec_json: &[u8]) -> serde_json::Result<Vec<u8>> {
    let mut spec: Value = serde_json::from_slice(spec_json)?;
    let entries = spec.pointer_mut("/linux/namespaces");
    if let Some(entries) = entries.and_then(Value::as_array_mut) {
        entries.retain(|entry| !is_the_pods(entry));
    }
    serde_json::to_vec(&spec)
}

fn is_the_pods(entry: &Value) -> bool {
    let text = |field| entry.get(field).and_then(Value::as_str).unwrap_or_default();
    SHARED.contains(&text("type")) && !text("path").is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(namespaces: Value, expect: Value) {
        let spec = |namespaces| json!({"ociVersion": "1.1.0", "linux": {"namespaces": namespaces}});
        let json = serde_json::to_vec(&spec(namespaces)).unwrap();
        let found: Value = serde_json::from_slice(&of_the_machine(&json).unwrap()).unwrap();
        assert_eq!(found, spec(expect));
    }

    #[test]
    fn what_has_a_path_is_the_machines_and_what_has_none_is_new() {
        let at = |kind: &str| json!({"type": kind, "path": format!("/proc/77/ns/{kind}")});
        let new = |kind: &str| json!({"type": kind});
        check(
            json!([
                at("ipc"),
                at("uts"),
                at("network"),
                new("mount"),
                new("pid")
            ]),
            json!([at("network"), new("mount"), new("pid")]),
        );
        // The pod shares its pids.
        check(json!([at("pid"), new("mount")]), json!([new("mount")]));
        check(
            json!([new("ipc"), {"type": "uts", "path": ""}]),
            json!([new("ipc"), {"type": "uts", "path": ""}]),
        );
        // What no machine has is the guest's to refuse, with its name.
        check(
            json!([at("user"), at("mount"), at("time"), "pid", 3]),
            json!([at("user"), at("mount"), at("time"), "pid", 3]),
        );
        check(json!([]), json!([]));
        check(json!(null), json!(null));
    }

    #[test]
    fn everything_else_is_as_it_was() {
        let text = br#"{"process":{"args":["a\u0000\n"],"rlimits":[{"hard":18446744073709551615}]},
            "linux":{"resources":{"memory":{"limit":-1}}},"x":1.5}"#;
        let before: Value = serde_json::from_slice(text).unwrap();
        let after: Value = serde_json::from_slice(&of_the_machine(text).unwrap()).unwrap();
        assert_eq!(after, before);
    }

    #[test]
    fn what_is_no_json_is_refused() {
        assert!(of_the_machine(b"{").is_err());
    }
}
