// SPDX-License-Identifier: Apache-2.0
//! One sandbox with the real VMM, guest kernel and agent: containers, processes, streams, ends.
//!
//! The tests share a lock, because each machine takes its time where virtualisation is emulated.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test program: helpers outside of #[test] functions too"
)]

mod bed;
mod templates;

use std::time::Duration;

use bed::{Bed, oci, process};
use cube_runtime::spec::MIN_CONTAINER_MEMORY;
use cube_runtime::{Command, Exit, Kind, Process, Sandbox, reap};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::timeout;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Longest time for anything but a boot.
const LIMIT: Duration = Duration::from_secs(60);

/// What a process printed, and its end.
struct Outcome {
    stdout: String,
    stderr: String,
    exit: Exit,
}

fn all_streams(exec_id: &str, process_json: Option<serde_json::Value>) -> Command {
    Command {
        exec_id: exec_id.into(),
        process_json: process_json.map(|json| json.to_string().into_bytes()),
        terminal: false,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

/// Starts a process that was set up, gives it its input, collects what it prints.
async fn run(mut process: Process, input: &[u8]) -> Outcome {
    let mut stdin = process.take_stdin().unwrap();
    let (mut out, mut err) = (
        process.take_stdout().unwrap(),
        process.take_stderr().unwrap(),
    );
    process.start().await.unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let work = async {
        let feed = async {
            stdin.write_all(input).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        let (_, read_out, read_err) = tokio::join!(
            feed,
            out.read_to_string(&mut stdout),
            err.read_to_string(&mut stderr)
        );
        read_out.unwrap();
        read_err.unwrap();
        process.wait().await
    };
    let exit = timeout(LIMIT, work).await.unwrap();
    process.delete().await.unwrap();
    Outcome {
        stdout,
        stderr,
        exit,
    }
}

async fn exec(sandbox: &Sandbox, container: &str, exec_id: &str, args: &[&str]) -> Outcome {
    let command = all_streams(exec_id, Some(process(args)));
    let process = sandbox.create_process(container, command).await.unwrap();
    run(process, b"").await
}

fn the_vmm_is_where_the_spec_wants_it(sandbox: &Sandbox) {
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", sandbox.pid())).unwrap();
    // A host with cgroup v1 has more lines than one, and the VMM is left where it was.
    if cgroup.lines().count() == 1 {
        assert_eq!(cgroup.trim(), format!("0::/{}/first", bed::CGROUP_PARENT));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    let uid = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(!uid.split_ascii_whitespace().any(|id| id == "0"), "{uid}");
}

async fn first_light(bed: &Bed, sandbox: &Sandbox) {
    let script = "cat; echo err >&2; echo made here > /made; uname -r; hostname; exit 7";
    let spec = oci(&["sh", "-c", script]);
    sandbox
        .create_container(bed.container("c1", &spec))
        .await
        .unwrap();
    let process = sandbox
        .create_process("c1", all_streams("", None))
        .await
        .unwrap();
    let outcome = run(process, b"hello\n").await;
    assert_eq!(outcome.exit.status, 7);
    assert_eq!(outcome.stderr, "err\n");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"hello"));
    let host_kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    println!(
        "guest kernel {}, host kernel {}",
        lines[1],
        host_kernel.trim()
    );
    sandbox.delete_container("c1").await.unwrap();
    // Deleted means written back, and that nobody holds the disk any more.
    assert_eq!(bed.file_on_disk("c1", "/made"), "made here\n");
    let error = sandbox.delete_container("c1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

async fn ends_are_reported_as_runc_does(bed: &Bed, sandbox: &Sandbox) {
    let spec = oci(&["sleep", "1000"]);
    sandbox
        .create_container(bed.container("c2", &spec))
        .await
        .unwrap();
    let init = sandbox
        .create_process("c2", Command::default())
        .await
        .unwrap();
    init.start().await.unwrap();
    for (script, expect) in [
        ("exit 0", 0),
        ("exit 1", 1),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
    ] {
        let outcome = exec(sandbox, "c2", "e1", &["sh", "-c", script]).await;
        assert_eq!(outcome.exit.status, expect, "{script}");
        assert!(outcome.exit.machine.is_none());
    }
    let mut lost = process(&["true"]);
    lost["cwd"] = json!("/missing/cwd");
    let failed = match sandbox
        .create_process("c2", all_streams("e2", Some(lost)))
        .await
    {
        Err(error) => cube_runtime::error::chain(&error),
        Ok(process) => cube_runtime::error::chain(&process.start().await.unwrap_err()),
    };
    assert!(failed.contains("/missing/cwd"), "{failed}");

    let pids = sandbox.pids("c2").await.unwrap();
    assert_eq!(pids.len(), 1, "{pids:?}");
    assert_eq!(pids[0].pid, init.pid());
    assert!(sandbox.stats("c2").await.unwrap().memory.current > 0);

    let waiters = [init.wait(), init.wait()];
    init.signal(15, false).await.unwrap();
    // PID 1 of a pid namespace ignores what it has no handler for.
    init.signal(9, true).await.unwrap();
    for waiter in waiters {
        assert_eq!(timeout(LIMIT, waiter).await.unwrap().status, 137);
    }
    sandbox.delete_container("c2").await.unwrap();
}

async fn bytes_pass_unchanged(bed: &Bed, sandbox: &Sandbox) {
    let spec = oci(&["cat"]);
    sandbox
        .create_container(bed.container("c3", &spec))
        .await
        .unwrap();
    let process = sandbox
        .create_process("c3", all_streams("", None))
        .await
        .unwrap();
    let input: String = (0..200_000).map(|n| format!("{n:06x}\n")).collect();
    let outcome = run(process, input.as_bytes()).await;
    assert_eq!(outcome.exit.status, 0);
    assert!(outcome.stdout == input, "{} bytes", outcome.stdout.len());
    sandbox.delete_container("c3").await.unwrap();
}

async fn bad_input_is_one_clear_error(bed: &Bed, sandbox: &Sandbox) {
    let check = async |name: &str, spec: serde_json::Value, words: &str| {
        let created = sandbox.create_container(bed.container(name, &spec)).await;
        let failed = match created {
            Err(error) => cube_runtime::error::chain(&error),
            Ok(()) => {
                let started = match sandbox.create_process(name, Command::default()).await {
                    Err(error) => Err(cube_runtime::error::chain(&error)),
                    Ok(process) => process
                        .start()
                        .await
                        .map_err(|error| cube_runtime::error::chain(&error)),
                };
                sandbox.delete_container(name).await.unwrap();
                started.unwrap_err()
            }
        };
        println!("{name}: {failed}");
        let lower = failed.to_lowercase();
        assert!(lower.contains(words), "{name}: {failed}");
    };
    check("no-command", oci(&["nonexistent"]), "not found in $path").await;
    check("no-file", oci(&["/bin/nonexistent"]), "no such file").await;
    check("foreign", oci(&["/bin/foreign"]), "exec format error").await;
    let mut spec = oci(&["true"]);
    spec["linux"]["namespaces"] = json!([{"type": "pid"}]);
    check("host-net", spec, "--net-host").await;
    let mut spec = oci(&["true"]);
    spec["linux"]["resources"] = json!({"memory": {"limit": 1 << 20}});
    check("no-memory", spec, "memory limit").await;
    // All slots are free again, or the ninth of these would have failed.
    for n in 0..9 {
        check(&format!("again{n}"), oci(&["nonexistent"]), "not found").await;
    }
}

/// The least memory limit that is accepted must be enough.
async fn the_least_memory_is_enough(bed: &Bed, sandbox: &Sandbox) {
    let mut spec = oci(&["sleep", "1000"]);
    spec["linux"]["resources"] = json!({"memory": {"limit": MIN_CONTAINER_MEMORY}});
    sandbox
        .create_container(bed.container("c4", &spec))
        .await
        .unwrap();
    let init = sandbox
        .create_process("c4", Command::default())
        .await
        .unwrap();
    init.start().await.unwrap();
    let outcome = exec(sandbox, "c4", "least", &["true"]).await;
    assert_eq!(outcome.exit.status, 0);
    sandbox.delete_container("c4").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_run_in_a_machine_and_leave_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(bed) = bed::bed() else { return };
    let sandbox = bed.sandbox("first").await;
    the_vmm_is_where_the_spec_wants_it(&sandbox);
    first_light(&bed, &sandbox).await;
    ends_are_reported_as_runc_does(&bed, &sandbox).await;
    the_least_memory_is_enough(&bed, &sandbox).await;
    bytes_pass_unchanged(&bed, &sandbox).await;
    bad_input_is_one_clear_error(&bed, &sandbox).await;
    sandbox.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
    assert!(sandbox.exited().await.is_orderly());
    assert!(!std::path::Path::new(&format!("/proc/{}", sandbox.pid())).exists());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vmm_ends_everything_at_once_with_its_reason() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(bed) = bed::bed() else { return };
    let sandbox = bed.sandbox("killed").await;
    let spec = oci(&["sleep", "1000"]);
    sandbox
        .create_container(bed.container("c", &spec))
        .await
        .unwrap();
    let process = sandbox
        .create_process("c", all_streams("", None))
        .await
        .unwrap();
    process.start().await.unwrap();
    let pid = rustix::process::Pid::from_raw(sandbox.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();

    let exit = timeout(Duration::from_secs(10), process.wait())
        .await
        .unwrap();
    assert_eq!(exit.status, 137);
    let machine = exit.machine.unwrap().to_string();
    assert!(machine.contains("signal 9"), "{machine}");
    let error = sandbox.pause("c").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    sandbox.delete_container("c").await.unwrap();
    sandbox.destroy().await.unwrap();
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_can_be_reaped_from_its_files() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(bed) = bed::bed() else { return };
    let sandbox = bed.sandbox("reaped").await;
    let layout = cube_runtime::Layout::new(&bed.config.run);
    let dirs = layout.list().unwrap();
    assert_eq!(dirs.len(), 1);
    let reaped = reap::reap_dir(&dirs[0]).unwrap();
    assert_eq!(reaped.pid, Some(sandbox.pid()));
    assert!(reaped.killed);
    timeout(LIMIT, sandbox.exited()).await.unwrap();
    bed.assert_nothing_left();
    sandbox.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_cannot_boot_is_told_apart_and_leaves_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(mut bed) = bed::bed() else { return };
    let create = async |bed: &Bed| {
        let key = bed::key("bad");
        let spec = serde_json::from_value(oci(&["true"])).unwrap();
        let spec = cube_runtime::SandboxSpec::from_oci(key, &spec, &bed.config).unwrap();
        let error = Sandbox::create(&bed.config, spec).await.unwrap_err();
        let text = cube_runtime::error::chain(&error);
        println!("{text}");
        text
    };
    let good = bed.config.clone();

    bed.config.image = bed.path().join("nowhere");
    assert!(create(&bed).await.contains("nowhere/manifest.json"));

    bed.config = good.clone();
    bed.config.vmm = Some("/bin/false".into());
    assert!(create(&bed).await.contains("the machine ended"));
    bed.assert_nothing_left();

    // A kernel that finds no /init panics, and the machine's end says so.
    bed.config = good;
    bed.config.cmdline = "rdinit=/nonexistent init=/nonexistent".into();
    let text = create(&bed).await;
    assert!(text.contains("panic"), "{text}");
    bed.assert_nothing_left();
}

/// The stages of a start, for whoever runs the test with `--nocapture`.
fn show_log() {
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_writer(std::io::stdout)
        .try_init()
        .ok();
}
