// SPDX-License-Identifier: Apache-2.0
//! Sandboxes that are restored: they start, they differ, their clocks are right, and what goes wrong
//! with their template is mended or said.

use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cube_runtime::layout::SandboxState;
use cube_runtime::template::{self, Store, TemplateState};
use cube_runtime::{Command, Config, Layout, Sandbox, SandboxSpec, error, reap};
use tokio::time::timeout;

use super::bed::{self, Bed, oci};
use super::{LIMIT, ONE_AT_A_TIME, all_streams, exec, run, show_log};

/// Clones that are compared with each other.
const CLONES: usize = 50;

/// How far a guest's clock may be off.
const CLOCK_ERROR: Duration = Duration::from_millis(50);

/// How old a template gets before its clone's clock is looked at. A clock that was not set would be
/// late by this much.
const AGE: Duration = Duration::from_secs(10);

/// The first words of a kernel's read-only data, which lie behind its code.
const BANNER: &[u8] = b"Linux version ";

/// How much of the code before them is taken away: about half.
const CODE_BYTES: usize = 8 << 20;

/// Tells a copy of this program to be the builder that is killed: the run directory and the store.
const VICTIM: &str = "CUBE_VM_TEST_VICTIM";

/// The name of the template that the only sandbox there is was restored from.
fn template_of_only(config: &Config) -> Option<String> {
    let dirs = Layout::new(&config.run).list().unwrap();
    assert_eq!(dirs.len(), 1, "{dirs:?}");
    SandboxState::read(&dirs[0]).unwrap().unwrap().template
}

/// Runs a shell script as the first process of a container; gives what it printed.
async fn first_process(bed: &Bed, sandbox: &Sandbox, id: &str, script: &str) -> String {
    let spec = oci(&["sh", "-c", script]);
    let container = bed.container(id, &spec);
    sandbox.create_container(container).await.unwrap();
    let process = sandbox.create_process(id, all_streams("", None)).await;
    let outcome = run(process.unwrap(), b"").await;
    assert_eq!(outcome.exit.status, 0, "{}", outcome.stderr);
    sandbox.delete_container(id).await.unwrap();
    outcome.stdout
}

async fn timed(bed: &Bed, id: &str) -> (Sandbox, Duration) {
    let began = Instant::now();
    let sandbox = bed.sandbox(id).await;
    (sandbox, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_restored_and_faster_than_a_boot() {
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(mut bed) = bed::bed() else { return };
    let shape = (bed.config.vcpus, bed.config.memory_mib);
    let built = template::build(&bed.config, shape.0, shape.1)
        .await
        .unwrap();
    assert!(
        template::build(&bed.config, shape.0, shape.1)
            .await
            .unwrap()
            .was_there
    );

    let (sandbox, warm) = timed(&bed, "warm").await;
    assert_eq!(template_of_only(&bed.config), Some(built.name.clone()));
    let store = Store::of(&bed.config);
    let inspected = store.inspect(&built.name, true).unwrap();
    assert_eq!(inspected.listed.state, TemplateState::Good);
    assert!(inspected.listed.in_use);
    assert_eq!(inspected.listed.memory_mib, Some(shape.1));
    assert!(inspected.verified.unwrap().iter().all(|file| file.good));
    let text = first_process(&bed, &sandbox, "c", "echo here; hostname").await;
    assert_eq!(text, "here\nwarm\n");
    sandbox.destroy().await.unwrap();

    bed.config.prefault = false;
    let (sandbox, lazy) = timed(&bed, "lazy").await;
    sandbox.destroy().await.unwrap();

    bed.config.cold = true;
    let (sandbox, cold) = timed(&bed, "cold").await;
    assert_eq!(template_of_only(&bed.config), None);
    sandbox.destroy().await.unwrap();
    println!("restored in {warm:?}, without reading ahead in {lazy:?}, booted in {cold:?}");
    assert!(warm < cold / 2, "{warm:?} {cold:?}");
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clones_have_fifty_identities() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(bed) = bed::bed() else { return };
    const SCRIPT: &str = "head -c 16 /dev/urandom | sha256sum; cat /proc/sys/kernel/random/boot_id; \
        cat /proc/sys/kernel/random/uuid; cat /etc/machine-id; hostname";
    let mut identities = Vec::new();
    for number in 0..CLONES {
        let sandbox = bed.sandbox(&format!("clone-{number}")).await;
        let text = first_process(&bed, &sandbox, "c", SCRIPT).await;
        sandbox.destroy().await.unwrap();
        identities.push(text.lines().map(str::to_owned).collect::<Vec<_>>());
    }
    for (row, what) in ["random bytes", "boot id", "uuid", "machine id", "host name"]
        .into_iter()
        .enumerate()
    {
        let mut values: Vec<_> = identities.iter().map(|lines| lines[row].clone()).collect();
        values.sort();
        values.dedup();
        println!(
            "{what}: {} different values, such as {}",
            values.len(),
            values[0]
        );
        assert_eq!(values.len(), CLONES, "{what}: {values:?}");
        assert!(!values[0].is_empty(), "{what}");
    }
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_right_after_the_template_has_aged() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(bed) = bed::bed() else { return };
    let shape = (bed.config.vcpus, bed.config.memory_mib);
    template::build(&bed.config, shape.0, shape.1)
        .await
        .unwrap();
    tokio::time::sleep(AGE).await;
    let sandbox = bed.sandbox("late").await;
    let container = bed.container("c", &oci(&["sleep", "1000"]));
    sandbox.create_container(container).await.unwrap();
    let init = sandbox
        .create_process("c", Command::default())
        .await
        .unwrap();
    init.start().await.unwrap();
    let since_epoch = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = since_epoch();
    let outcome = exec(&sandbox, "c", "clock", &["adjtimex"]).await;
    let after = since_epoch();
    let guest = clock_of(&outcome.stdout);
    println!("host {before:?} to {after:?}, guest {guest:?}");
    assert!(guest + CLOCK_ERROR >= before && guest <= after + CLOCK_ERROR);
    sandbox.destroy().await.unwrap();
    bed.assert_nothing_left();
}

/// What busybox's adjtimex prints of the clock, in microseconds.
fn clock_of(text: &str) -> Duration {
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    Duration::from_secs(field("time.tv_sec:")) + Duration::from_micros(field("time.tv_usec:"))
}

async fn refused(config: &Config, id: &str) -> String {
    let spec = serde_json::from_value(oci(&["true"])).unwrap();
    let spec = SandboxSpec::from_oci(bed::key(id), &spec, config).unwrap();
    let text = error::chain(&Sandbox::create(config, spec).await.unwrap_err());
    println!("{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_does_not_acknowledge_is_destroyed_and_the_caller_told() {
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(bed) = bed::bed() else { return };
    let shape = (bed.config.vcpus, bed.config.memory_mib);
    let built = template::build(&bed.config, shape.0, shape.1)
        .await
        .unwrap();
    // No guest can be restored, greeted and claimed in this time.
    let impatient = Config {
        claim_timeout_ms: 1,
        ..bed.config.clone()
    };
    let text = refused(&impatient, "silent").await;
    assert!(
        text.contains("was destroyed") && text.contains(&built.name),
        "{text}"
    );
    bed.assert_nothing_left();
    // It was not the template's fault.
    bed.sandbox("patient").await.destroy().await.unwrap();
    assert!(Store::of(&bed.config).inspect(&built.name, false).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_no_start_sees_costs_one_start() {
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(mut bed) = bed::bed() else { return };
    bed.config.templates = bed.path().join("t");
    // It ends or it is silent; neither takes longer to see.
    bed.config.claim_timeout_ms = 5000;
    bed.sandbox("first").await.destroy().await.unwrap();
    let memory = only_template(&bed.config).join("memory.bin");
    let memory = File::options().read(true).write(true).open(memory).unwrap();
    let meta = memory.metadata().unwrap();
    let behind_code = find(&memory, BANNER);
    let code = behind_code - CODE_BYTES as u64;
    memory.write_all_at(&vec![0; CODE_BYTES], code).unwrap();
    memory.set_modified(meta.modified().unwrap()).unwrap();
    let text = refused(&bed.config, "second").await;
    assert!(text.contains("was destroyed"), "{text}");
    let sandbox = bed.sandbox("third").await;
    assert!(template_of_only(&bed.config).is_some());
    sandbox.destroy().await.unwrap();
    bed.assert_nothing_left();
}

/// Where these bytes are in a file for the first time. They must not lie across two MiB.
fn find(file: &File, bytes: &[u8]) -> u64 {
    let mut chunk = vec![0; 1 << 20];
    let chunks = file.metadata().unwrap().len() >> 20;
    let found = (0..chunks).find_map(|mib| {
        file.read_exact_at(&mut chunk, mib << 20).unwrap();
        Some((mib << 20) + position(&chunk, bytes)? as u64)
    });
    found.unwrap()
}

/// The library's search for one byte is compiled for speed in a test too, and there is much to search.
fn position(chunk: &[u8], bytes: &[u8]) -> Option<usize> {
    let mut rest = chunk;
    while rest.skip_until(bytes[0]).unwrap() > 0 {
        let at = chunk.len() - rest.len() - 1;
        if chunk[at..].starts_with(bytes) {
            return Some(at);
        }
    }
    None
}

fn only_template(config: &Config) -> PathBuf {
    let listed = Store::of(config).list().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    config.templates.join(&listed[0].name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_refused_by_the_vmm_and_the_template_made_anew() {
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(mut bed) = bed::bed() else { return };
    bed.config.templates = bed.path().join("t");
    bed.sandbox("first").await.destroy().await.unwrap();
    let path = only_template(&bed.config).join("state.bin");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&path);
    let state = File::options().write(true).open(&path).unwrap();
    let middle = state.metadata().unwrap().len() / 2;
    state.write_all_at(b"not what was saved", middle).unwrap();
    let sandbox = bed.sandbox("second").await;
    assert!(template_of_only(&bed.config).is_some());
    assert_ne!(inode(&path), before);
    sandbox.destroy().await.unwrap();
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_outlive_their_template_and_new_ones_have_a_new_one() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(mut bed) = bed::bed() else { return };
    bed.config.templates = bed.path().join("t");
    let old = bed.sandbox("old").await;
    let container = bed.container("c", &oci(&["sleep", "1000"]));
    old.create_container(container).await.unwrap();
    let init = old.create_process("c", Command::default()).await.unwrap();
    init.start().await.unwrap();
    fs::remove_file(only_template(&bed.config).join("memory.bin")).unwrap();
    assert_eq!(exec(&old, "c", "a", &["true"]).await.exit.status, 0);
    let new = bed.sandbox("new").await;
    assert_eq!(exec(&old, "c", "b", &["true"]).await.exit.status, 0);
    first_process(&bed, &new, "d", "true").await;
    // The older one made the cgroup that both are below.
    for sandbox in [new, old] {
        sandbox.destroy().await.unwrap();
    }
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_costs_time_and_no_start() {
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(mut bed) = bed::bed() else { return };
    let file = bed.path().join("file");
    fs::write(&file, "").unwrap();
    bed.config.templates = file.join("t");
    let sandbox = bed.sandbox("cold").await;
    assert_eq!(template_of_only(&bed.config), None);
    first_process(&bed, &sandbox, "c", "true").await;
    sandbox.destroy().await.unwrap();
    bed.assert_nothing_left();
}

/// Runs the test of this name in another process, as the builder to be killed.
fn victim(bed: &Bed) -> Child {
    let test = "templates::of_two_builders_the_killed_one_is_replaced_by_the_other";
    Program::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(VICTIM, bed.path())
        .spawn()
        .unwrap()
}

async fn until(what: &str, found: impl Fn() -> bool) {
    let wait = async {
        while !found() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_builders_the_killed_one_is_replaced_by_the_other() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        let bed = bed::bed_in(Path::new(&dir)).unwrap();
        bed.sandbox("victim").await;
        unreachable!("this process is killed while it builds");
    }
    let _alone = ONE_AT_A_TIME.lock().await;
    show_log();
    let Some(mut bed) = bed::bed() else { return };
    bed.config.templates = bed.path().join("t");
    let mut victim = victim(&bed);
    let half_made = || {
        let entries = fs::read_dir(&bed.config.templates)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(".new."))
            .count()
    };
    until("the other's build", || half_made() == 1).await;
    let waiting = bed.sandbox("heir");
    let kill = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
    };
    let (sandbox, ()) = tokio::join!(waiting, kill);
    assert_eq!(half_made(), 0);
    only_template(&bed.config);
    first_process(&bed, &sandbox, "c", "true").await;
    sandbox.destroy().await.unwrap();
    // What is left of the killed one is found by its files, as `cube reap` finds it.
    for dir in Layout::new(&bed.config.run).list().unwrap() {
        reap::reap_dir(&dir).unwrap();
    }
    bed.assert_nothing_left();
}
