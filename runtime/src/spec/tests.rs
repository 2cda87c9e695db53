// SPDX-License-Identifier: Apache-2.0
//! What a container asks for, and the machine it gets.
use super::*;
use serde_json::{Value, json};
use std::path::Path;

const GIB: i64 = 1 << 30;

fn key() -> SandboxKey {
    SandboxKey {
        address: "/a".into(),
        namespace: "default".into(),
        id: "web_1".into(),
    }
}

/// A spec as `ctr` writes it, with `change` merged into it at the top level.
fn spec(change: Value) -> Spec {
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": "/default/web_1",
            "namespaces": [{"type": "pid"}, {"type": "network"}],
        },
    });
    for (name, value) in change.as_object().unwrap() {
        spec[name] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn with_resources(resources: Value) -> Spec {
    spec(json!({"linux": {"namespaces": [{"type": "network"}], "resources": resources}}))
}

fn read(spec: &Spec) -> Result<SandboxSpec, SpecError> {
    SandboxSpec::from_oci(key(), spec, &Config::default())
}

#[test]
fn a_plain_spec_gets_the_default_shape() {
    let sandbox = read(&spec(json!({}))).unwrap();
    assert_eq!((sandbox.vcpus, sandbox.memory_mib), (2, 2048));
    assert_eq!(sandbox.cgroup.as_deref(), Some("/default/web_1"));
    assert_eq!(sandbox.netns, None);
    assert_eq!(sandbox.hostname, "web-1");
}

#[test]
fn the_shape_grows_with_the_limits_and_never_shrinks() {
    let check = |memory: i64, quota: i64, period: u64, expect: (u8, u32)| {
        let wishes = Wishes::of(&with_resources(json!({
            "memory": {"limit": memory},
            "cpu": {"quota": quota, "period": period},
        })));
        let config = Config::default();
        let vcpus = wishes.vcpus().clamp(config.vcpus, MAX_VCPUS);
        let found = (vcpus, wishes.memory_mib(&config, 64 * 1024));
        assert_eq!(found, expect, "{memory} {quota}/{period}");
    };
    check(0, 0, 0, (2, 2048));
    check(-1, -1, 100_000, (2, 2048));
    check(64 << 20, 50_000, 100_000, (2, 2048));
    // 1.75 GiB and the guest's own 256 MiB just fit; one byte more does not.
    check((2048 - 256) << 20, 200_000, 100_000, (2, 2048));
    check(((2048 - 256) << 20) + 1, 200_001, 100_000, (3, 4096));
    check(4 * GIB, 400_000, 100_000, (4, 8192));
    check(4 * GIB, 50_000, 10_000, (5, 8192));
    check(4 * GIB, 3_200_000, 100_000, (8, 8192));
    check(i64::MAX, i64::MAX, 1, (8, 64 * 1024));
    // A quota without a period has the kernel's.
    check(0, 300_000, 0, (3, 2048));
}

#[test]
fn a_pods_size_comes_from_its_annotations() {
    let wishes = Wishes::of(&spec(json!({"annotations": {
        "io.kubernetes.cri.sandbox-memory": "4294967296",
        "io.kubernetes.cri.sandbox-cpu-quota": "600000",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
    }})));
    assert_eq!(wishes.vcpus(), 6);
    assert_eq!(wishes.memory_mib(&Config::default(), 64 * 1024), 8192);
    let nonsense = Wishes::of(&spec(json!({"annotations": {
        "io.kubernetes.cri.sandbox-memory": "lots",
        "io.kubernetes.cri.sandbox-cpu-quota": "-1",
    }})));
    assert_eq!(nonsense, Wishes::default());
}

#[test]
fn a_small_host_still_gets_the_default() {
    let wishes = Wishes::of(&with_resources(json!({"memory": {"limit": 8 * GIB}})));
    assert_eq!(wishes.memory_mib(&Config::default(), 512), 2048);
    assert_eq!(wishes.memory_mib(&Config::default(), 3000), 3000);
}

#[test]
fn the_network_namespace_is_found_or_host_networking_is_refused() {
    let named =
        json!({"namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}]});
    let sandbox = read(&spec(json!({"linux": named}))).unwrap();
    assert_eq!(sandbox.netns.as_deref(), Some(Path::new("/run/netns/x")));
    for linux in [json!({"namespaces": [{"type": "pid"}]}), json!({})] {
        let error = read(&spec(json!({"linux": linux}))).unwrap_err();
        assert!(matches!(error, SpecError::HostNetwork));
        assert!(error.to_string().contains("--net-host"));
    }
}

#[test]
fn binds_of_host_files_are_refused_by_name() {
    for mount in [
        json!({"destination": "/data", "type": "bind", "source": "/srv/x"}),
        json!({"destination": "/data", "source": "/srv/x", "options": ["rbind", "ro"]}),
    ] {
        let error = read(&spec(json!({"mounts": [mount]}))).unwrap_err();
        assert!(error.to_string().contains("/srv/x at /data"), "{error}");
        assert_eq!(error.kind(), Kind::Unimplemented);
    }
}

#[test]
fn a_hook_in_the_container_is_refused_and_others_are_not() {
    let hook = json!([{"path": "/bin/true"}]);
    let error = read(&spec(json!({"hooks": {"startContainer": hook}}))).unwrap_err();
    assert!(matches!(error, SpecError::StartContainerHook));
    read(&spec(
        json!({"hooks": {"startContainer": [], "createRuntime": hook, "poststop": hook}}),
    ))
    .unwrap();
}

#[test]
fn a_memory_limit_below_the_minimum_is_refused() {
    let limit = |bytes: i64| read(&with_resources(json!({"memory": {"limit": bytes}})));
    let error = limit(MIN_CONTAINER_MEMORY - 1).unwrap_err();
    assert!(matches!(error, SpecError::Memory { .. }), "{error}");
    limit(MIN_CONTAINER_MEMORY).unwrap();
    limit(-1).unwrap();
    limit(0).unwrap();
}

#[test]
fn a_given_host_name_is_kept() {
    assert_eq!(
        read(&spec(json!({"hostname": "db"}))).unwrap().hostname,
        "db"
    );
}

#[test]
fn a_policy_comes_from_the_annotation_else_from_the_configuration() {
    let with = |annotations: &str, config: &Config| {
        let annotations: Value = serde_json::from_str(annotations).unwrap();
        let spec = spec(json!({ "annotations": annotations }));
        SandboxSpec::from_oci(key(), &spec, config).map(|spec| spec.egress)
    };
    let open = Config::default();
    let mut strict = Config::default();
    strict.egress.policy = Some(Policy::parse(r#"{"default":"deny"}"#).unwrap());
    let own = r#"{"io.cube.egress":"{\"allow\":[\"10.0.0.1\"]}"}"#;
    assert_eq!(with("{}", &open).unwrap(), None);
    assert_eq!(with("{}", &strict).unwrap(), strict.egress.policy);
    assert_eq!(with(own, &strict).unwrap().unwrap().allow.len(), 1);
    let error = with(
        r#"{"io.cube.egress":"{\"allow\":[\"10.0.0.0/40\"]}"}"#,
        &open,
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
    let chain = crate::error::chain(&error);
    assert!(
        chain.contains("io.cube.egress") && chain.contains("10.0.0.0/40"),
        "{chain}"
    );
}
