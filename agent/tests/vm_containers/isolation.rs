// SPDX-License-Identifier: Apache-2.0
//! What a process in a container may see and do.

use std::fs;

use serde_json::json;

use crate::spec::{process, shell, spec};
use crate::world::{MACHINE_ID, world};

#[tokio::test]
async fn namespaces_mounts_and_devices_are_its_own() {
    let world = world!();
    let output = world
        .sh("hostname; echo $$; ls / | tr '\\n' ' '; echo; ls /dev | tr '\\n' ' '; echo; grep -c . /proc/mounts; readlink /dev/fd; readlink /dev/ptmx; stat -c %a /dev/shm; mount | grep -E ' / ' | wc -l; ls /proc/self/fd | wc -l; echo x > /dev/null && head -c 3 /dev/zero | wc -c")
        .await;
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines[..2], ["inside", "1"], "{output:?}");
    assert!(lines[2].starts_with("bin dev etc home link"), "{output:?}");
    assert_eq!(
        lines[3],
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    );
    assert_eq!(lines[5..8], ["/proc/self/fd", "pts/ptmx", "1777"]);
    // One root, and no descriptor besides the standard three and that of ls itself.
    assert_eq!(lines[8..], ["1", "4", "3"]);
    assert_eq!(output.stderr, "");
}

#[tokio::test]
async fn masked_paths_are_empty_and_read_only_paths_cannot_be_written() {
    let world = world!();
    let output = world
        .sh("wc -c < /proc/timer_list; wc -c < /proc/keys; ls -A /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/domainname; echo $?; echo h > /proc/sysrq-trigger; echo $?; touch /sys/x; echo $?")
        .await;
    assert_eq!(output.stdout, "0\n0\n0\n1\n1\n1\n", "{output:?}");
    assert_eq!(
        output.stderr.matches("Read-only file system").count(),
        3,
        "{output:?}"
    );
}

#[tokio::test]
async fn a_read_only_root_takes_no_writes_but_its_mounts_do() {
    let world = world!();
    let mut spec = spec(shell(
        "touch /x; echo $?; touch /run/x; echo $?; touch /dev/shm/x; echo $?; touch /dev/x; echo $?",
    ));
    spec["root"]["readonly"] = json!(true);
    let output = world.run(&spec).await.unwrap();
    assert_eq!(output.stdout, "1\n0\n0\n0\n", "{output:?}");
}

#[tokio::test]
async fn capabilities_are_exactly_those_of_the_spec() {
    let world = world!();
    let sets = |output: &str| -> Vec<String> {
        let caps = output.lines().filter_map(|line| line.strip_prefix("Cap"));
        caps.map(|line| line.replace(":\t", "=")).collect()
    };
    let output = world
        .sh("cat /proc/self/status; mount -t tmpfs x /tmp")
        .await;
    assert_eq!(
        sets(&output.stdout),
        [
            "Inh=0000000000000000",
            "Prm=00000000a80425fb",
            "Eff=00000000a80425fb",
            "Bnd=00000000a80425fb",
            "Amb=0000000000000000"
        ]
    );
    assert_ne!(output.status, 0);

    // For another user only ambient ones survive the exec.
    let mut process = process(&["cat", "/proc/self/status"]);
    process["user"] = json!({"uid": 1000, "gid": 1000});
    let one = json!(["CAP_NET_BIND_SERVICE"]);
    process["capabilities"] = json!({"bounding": one, "effective": one, "permitted": one, "inheritable": one, "ambient": one});
    let output = world.run(&spec(process)).await.unwrap();
    assert_eq!(
        sets(&output.stdout),
        ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("{set}=0000000000000400"))
    );

    let mut process = crate::spec::process(&["cat", "/proc/self/status"]);
    process["capabilities"] = json!(null);
    let output = world.run(&spec(process)).await.unwrap();
    assert!(
        sets(&output.stdout)
            .iter()
            .all(|set| set.ends_with("=0000000000000000")),
        "{output:?}"
    );
}

#[tokio::test]
async fn no_new_privileges_is_as_asked() {
    let world = world!();
    for asked in [true, false] {
        let mut process = process(&["grep", "NoNewPrivs", "/proc/self/status"]);
        process["noNewPrivileges"] = json!(asked);
        let output = world.run(&spec(process)).await.unwrap();
        assert_eq!(output.stdout, format!("NoNewPrivs:\t{}\n", u8::from(asked)));
    }
}

#[tokio::test]
async fn seccomp_answers_as_the_profile_says() {
    let world = world!();
    for no_new_privileges in [true, false] {
        let mut process = shell(
            "mkdir /tmp/d; chmod 700 /tmp; cat /proc/self/status | grep -E 'Seccomp:|CapEff'; kill -0 1; sh -c 'hostname x'; echo $?",
        );
        process["noNewPrivileges"] = json!(no_new_privileges);
        let mut spec = spec(process);
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"},
            ],
        });
        let output = world.run(&spec).await.unwrap();
        assert!(
            output.stderr.contains("'/tmp/d': No space left on device"),
            "{output:?}"
        );
        assert!(
            output.stderr.contains("/tmp: Operation not permitted"),
            "{output:?}"
        );
        // 128 + SIGSYS; and the right to install the filter is gone.
        assert_eq!(
            output.stdout, "CapEff:\t00000000a80425fb\nSeccomp:\t2\n159\n",
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn a_strict_profile_lets_the_process_start() {
    let world = world!();
    // Nothing of the set-up is allowed, only what `true` itself needs.
    let mut spec = spec(process(&["/bin/true"]));
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": ["execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list",
            "rseq", "prlimit64", "readlinkat", "readlink", "getrandom", "mprotect", "uname", "exit_group", "newfstatat", "getuid", "setuid", "prctl", "mmap"]}],
    });
    let output = world.run(&spec).await.unwrap();
    assert_eq!(output.status, 0, "{output:?}");
}

#[tokio::test]
async fn sysctls_and_names_are_set() {
    let world = world!();
    let mut spec = spec(shell(
        "cat /proc/sys/kernel/msgmax /proc/sys/kernel/domainname; hostname",
    ));
    spec["linux"]["sysctl"] = json!({"kernel.msgmax": "4711"});
    spec["hostname"] = json!("other");
    spec["domainname"] = json!("example.org");
    let output = world.run(&spec).await.unwrap();
    assert_eq!(output.stdout, "4711\nexample.org\nother\n");
}

#[tokio::test]
async fn links_of_the_image_cannot_lead_mounts_out_of_it() {
    let mut world = world!();
    let outside = world.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    // An image whose links point at places of the host, as mounts' destinations.
    let away = outside.clone();
    world.add_changed_disk(1, |tree| {
        std::os::unix::fs::symlink(away, tree.join("away")).unwrap();
        std::os::unix::fs::symlink("../../../../../../..", tree.join("up")).unwrap();
        std::os::unix::fs::symlink("/tmp", tree.join("sys")).unwrap();
    });
    let on = |destination: &str, kind: &str| {
        let mut spec = spec(shell("touch /away/x 2>/dev/null; mount | grep -c tmpfs"));
        spec["mounts"] = json!([{"destination": destination, "type": kind, "source": kind}]);
        spec
    };
    for (destination, kind, works) in [
        ("/up/tmp/new", "tmpfs", true),
        ("/away/x", "tmpfs", false),
        ("/sys", "sysfs", false),
    ] {
        world
            .create_on(1, "c", &on(destination, kind))
            .await
            .unwrap();
        let result = world.create_process("c", "", None, false).await;
        assert_eq!(result.is_ok(), works, "{destination}");
        drop(result);
        world.delete("c").await.unwrap();
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    world.assert_clean();
}

#[tokio::test]
async fn containers_of_a_pod_share_what_they_are_told_to() {
    let mut world = world!();
    world.add_disk(1);
    world.idle("pause").await;
    let mut spec = spec(shell(
        "hostname; ps | grep -c 'sleep 10000[0]'; cat /proc/1/comm",
    ));
    spec["hostname"] = json!(null);
    spec["linux"]["namespaces"] = json!([
        {"type": "mount"}, {"type": "cgroup"},
        {"type": "pid", "path": "/proc/77/ns/pid"}, {"type": "uts", "path": "/proc/77/ns/uts"}, {"type": "ipc", "path": "/proc/77/ns/ipc"},
    ]);
    world.create_on(1, "app", &spec).await.unwrap();
    let (_, streams) = world.create_process("app", "", None, false).await.unwrap();
    let output = world.collect("app", "", streams).await;
    assert_eq!(output.stdout, "inside\n1\nsleep\n", "{output:?}");
    world.delete("app").await.unwrap();
    world.delete("pause").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn devices_of_the_machine_cannot_be_used_through_a_node_of_ones_own() {
    let world = world!();
    // 7:0 is the first loop device, 1:11 the kernel's log.
    let script = "rm -f /tmp/disk /tmp/log; mknod /tmp/disk b 7 0; echo $?; head -c 1 /tmp/disk; echo $?; mknod /tmp/log c 1 11; echo x > /tmp/log; echo $?; head -c 1 /dev/urandom | wc -c";
    let output = world.sh(script).await;
    assert_eq!(output.stdout, "0\n1\n1\n1\n", "{output:?}");
    assert_eq!(
        output.stderr.matches("Operation not permitted").count(),
        2,
        "{output:?}"
    );
    let mut spec = spec(shell(script));
    spec["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    let output = world.run(&spec).await.unwrap();
    assert_eq!(output.stderr, "", "{output:?}");
    // The rules of one container are not those of the next.
    let output = world.sh(script).await;
    assert_eq!(output.stdout, "0\n1\n1\n1\n", "{output:?}");
}

#[tokio::test]
async fn an_empty_machine_id_is_the_machines_and_any_other_the_images() {
    let script = "cat /etc/machine-id; echo x >> /etc/machine-id && echo written";
    for (contents, expected) in [
        ("", vec![MACHINE_ID]),
        ("fixed\n", vec!["fixed", "written"]),
    ] {
        let mut world = world!();
        world.add_changed_disk(1, |tree| {
            fs::write(tree.join("etc/machine-id"), contents).unwrap();
        });
        let spec = spec(shell(script));
        world.create_on(1, "c", &spec).await.unwrap();
        let (_, streams) = world.create_process("c", "", None, false).await.unwrap();
        let output = world.collect("c", "", streams).await;
        // What is not the image's is not for the container to change.
        let lines: Vec<_> = output.stdout.lines().collect();
        assert_eq!(lines, expected, "{output:?}");
        world.delete("c").await.unwrap();
        world.assert_clean();
    }
}

#[tokio::test]
async fn an_image_without_a_machine_id_stays_without() {
    let world = world!();
    let output = world.sh("ls /etc").await;
    assert!(!output.stdout.contains("machine-id"), "{output:?}");
}
