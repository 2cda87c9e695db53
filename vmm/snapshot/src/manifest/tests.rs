// SPDX-License-Identifier: Apache-2.0
//! A manifest is read as it was written or not at all.

use super::*;
use proptest::prelude::*;

const GOLDEN: &str = include_str!("../../tests/manifest_golden.json");

fn manifest() -> Manifest {
    let content = |bytes, digit: &str| Content {
        bytes,
        sha256: digit.repeat(64),
    };
    Manifest {
        key: "0123456789abcdef".repeat(4),
        name: "base".into(),
        created_s: 1_790_000_000,
        parent: None,
        shape: Shape {
            vcpus: 2,
            memory_mib: 2048,
        },
        fingerprints: Fingerprints {
            cpu: "AuthenticAMD 23-1-2".into(),
            kvm: "kvm_amd".into(),
            host_kernel: "6.12.1".into(),
            guest_kernel: "6.12.117+deb12-cloud-amd64".into(),
            kernel_sha256: "a".repeat(64),
            initramfs_sha256: "b".repeat(64),
            agent: "0.1.0".into(),
            protocol: 1,
            vmm: "0.1.0".into(),
        },
        files: Files {
            state: content(70_000, "c"),
            memory: Memory {
                bytes: 2048 << 20,
                mtime_ns: 1_790_000_000_123_456_789,
                sha256: "d".repeat(64),
            },
            working_set: Some(content(4096, "e")),
        },
    }
}

fn expected() -> Expected {
    let Manifest {
        key,
        shape,
        fingerprints,
        ..
    } = manifest();
    Expected {
        key,
        shape,
        fingerprints,
    }
}

#[test]
fn the_file_is_frozen() {
    let written = String::from_utf8(manifest().to_bytes()).unwrap();
    assert_eq!(written, GOLDEN);
    assert_eq!(Manifest::parse(GOLDEN.as_bytes()).unwrap(), manifest());
}

#[test]
fn a_newer_format_is_refused_by_its_number_whatever_else_it_has() {
    for text in [
        r#"{"format":2}"#,
        r#"{"format":2,"template":[1,2],"more":{}}"#,
        r#"{"crc32":"new","format":4294967295}"#,
    ] {
        let error = Manifest::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Newer { .. }), "{error}");
    }
    let error = Manifest::parse(br#"{"format":0}"#).unwrap_err();
    assert!(matches!(error, ManifestError::Format { found: 0 }));
}

#[test]
fn what_is_no_manifest_is_refused_by_what_is_wrong_with_it() {
    let check = |bytes: &[u8], expect: fn(&ManifestError) -> bool| {
        let error = Manifest::parse(bytes).unwrap_err();
        assert!(expect(&error), "{error:?}");
    };
    check(b"", |e| matches!(e, ManifestError::Head(_)));
    check(b"{}", |e| matches!(e, ManifestError::Head(_)));
    check(b"\0\xff", |e| matches!(e, ManifestError::Head(_)));
    check(br#"{"format":1}"#, |e| {
        matches!(e, ManifestError::Fields(_))
    });
    let long = " ".repeat(MAX_BYTES + 1);
    check(long.as_bytes(), |e| {
        matches!(e, ManifestError::TooLong { .. })
    });
    let unknown = GOLDEN.replacen("\"name\"", "\"disk\": \"x\", \"name\"", 1);
    check(unknown.as_bytes(), |e| {
        matches!(e, ManifestError::Fields(_))
    });
    let altered = GOLDEN.replacen("\"base\"", "\"bass\"", 1);
    check(altered.as_bytes(), |e| {
        matches!(e, ManifestError::Checksum { .. })
    });
}

#[test]
fn each_respect_in_which_a_template_differs_is_named_with_both_values() {
    manifest().check_compatible(&expected()).unwrap();
    let check = |change: fn(&mut Expected), what: &str, found: &str, here: &str| {
        let mut other = expected();
        change(&mut other);
        let mismatch = manifest().check_compatible(&other).unwrap_err();
        assert_eq!(mismatch.what, what);
        let text = mismatch.to_string();
        assert!(text.contains(found) && text.contains(here), "{text}");
    };
    check(|e| e.shape.vcpus = 3, "the shape", "2 vCPU", "3 vCPU");
    check(
        |e| e.shape.memory_mib = 4096,
        "the shape",
        "2048 MiB",
        "4096 MiB",
    );
    check(|e| e.key = "f".into(), "the template key", "0123", "f");
    let of = |change: fn(&mut Fingerprints), what, found| {
        let mut other = expected();
        change(&mut other.fingerprints);
        let mismatch = manifest().check_compatible(&other).unwrap_err();
        assert_eq!(mismatch.what, what);
        assert_eq!(mismatch.found, found);
        assert!(mismatch.expected.contains('9'), "{mismatch}");
    };
    of(
        |f| f.cpu = "9".into(),
        "the processor",
        "AuthenticAMD 23-1-2",
    );
    of(|f| f.kvm = "9".into(), "the KVM", "kvm_amd");
    of(
        |f| f.host_kernel = "9".into(),
        "the host's kernel",
        "6.12.1",
    );
    of(
        |f| f.guest_kernel = "9".into(),
        "the guest's kernel",
        "6.12.117+deb12-cloud-amd64",
    );
    let a = "a".repeat(64);
    of(
        |f| f.kernel_sha256 = "9".into(),
        "the guest's kernel with the digest",
        &a,
    );
    let b = "b".repeat(64);
    of(
        |f| f.initramfs_sha256 = "9".into(),
        "the initramfs with the digest",
        &b,
    );
    of(|f| f.agent = "9".into(), "the agent", "0.1.0");
    of(|f| f.protocol = 9, "the agent's protocol", "1");
    of(|f| f.vmm = "9".into(), "the VMM", "0.1.0");
}

fn any_manifest() -> impl Strategy<Value = Manifest> {
    let content = || (any::<u64>(), ".*").prop_map(|(bytes, sha256)| Content { bytes, sha256 });
    let memory =
        (any::<u64>(), any::<i64>(), "[0-9a-f]{64}").prop_map(|(bytes, mtime_ns, sha256)| Memory {
            bytes,
            mtime_ns,
            sha256,
        });
    let files = (content(), memory, proptest::option::of(content()));
    let words = proptest::collection::vec(".*", 10);
    let rest = (
        any::<u64>(),
        proptest::option::of(".*"),
        any::<(u8, u32, u32)>(),
    );
    (words, rest, files).prop_map(|(words, rest, files)| {
        let (created_s, parent, (vcpus, memory_mib, protocol)) = rest;
        let mut words = words.into_iter();
        let mut word = || words.next().unwrap();
        Manifest {
            key: word(),
            name: word(),
            created_s,
            parent,
            shape: Shape { vcpus, memory_mib },
            fingerprints: Fingerprints {
                cpu: word(),
                kvm: word(),
                host_kernel: word(),
                guest_kernel: word(),
                kernel_sha256: word(),
                initramfs_sha256: word(),
                agent: word(),
                protocol,
                vmm: word(),
            },
            files: Files {
                state: files.0,
                memory: files.1,
                working_set: files.2,
            },
        }
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(manifest in any_manifest()) {
        prop_assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
    }

    #[test]
    fn a_cut_file_is_refused(manifest in any_manifest(), at in any::<prop::sample::Index>()) {
        let bytes = manifest.to_bytes();
        // Of the whole file only the line's end may be missing.
        let cut = at.index(bytes.len() - 1);
        prop_assert!(Manifest::parse(&bytes[..cut]).is_err());
    }

    #[test]
    fn an_altered_byte_is_refused_or_changes_nothing(
        manifest in any_manifest(), at in any::<prop::sample::Index>(), other in any::<u8>(),
    ) {
        let mut bytes = manifest.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = other;
        if let Ok(read) = Manifest::parse(&bytes) {
            prop_assert_eq!(read, manifest);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        Manifest::parse(&bytes).ok();
    }
}
