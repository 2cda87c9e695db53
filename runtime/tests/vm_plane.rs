// SPDX-License-Identifier: Apache-2.0
//! The plane of a container in a real guest: jobs, files, watches, users, figures. One machine for all of it,
//! because each takes its time where virtualisation is emulated.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a test program: helpers outside of #[test] functions too"
)]

#[path = "vm_sandbox/bed.rs"]
#[allow(dead_code, reason = "the other tests' bed, of which these need a part")]
mod bed;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bed::{key, oci, process};
use cube_runtime::plane::{
    EntryKind, Fault, JobEnd, JobEvent, JobOutput, JobRef, Place, Plane, PlaneError, StartJob,
    TerminalSize, WatchKind,
};
use cube_runtime::{Command, Layout, Sandbox};
use tokio::time::timeout;

/// Longest time for anything but a boot.
const LIMIT: Duration = Duration::from_secs(60);

const SIGKILL: u32 = 9;

/// What a job printed, and its end.
#[derive(Debug)]
struct Outcome {
    output: String,
    errors: String,
    end: JobEnd,
}

fn shell(script: &str) -> StartJob {
    StartJob {
        command: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..StartJob::default()
    }
}

fn fault<T: std::fmt::Debug>(result: Result<T, PlaneError>) -> Fault {
    let error = result.unwrap_err();
    error.fault().unwrap_or_else(|| panic!("{error:?}"))
}

async fn rest(mut job: JobOutput) -> Outcome {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let all = async {
        loop {
            match job.next().await.unwrap().unwrap() {
                JobEvent::Output(bytes) => output.extend(bytes),
                JobEvent::Errors(bytes) => errors.extend(bytes),
                JobEvent::End(end) => return end,
            }
        }
    };
    let end = timeout(LIMIT, all).await.unwrap();
    assert_eq!(job.next().await.unwrap(), None);
    Outcome {
        output: String::from_utf8_lossy(&output).into_owned(),
        errors: String::from_utf8_lossy(&errors).into_owned(),
        end,
    }
}

async fn run(plane: &Plane, script: &str) -> Outcome {
    rest(plane.start(&shell(script)).await.unwrap()).await
}

async fn write(plane: &Plane, path: &str, user: &str, bytes: &[u8]) -> Result<(), PlaneError> {
    let place = Place::of_user(path, user);
    let mut writer = plane.write(&place, &BTreeMap::new()).await?;
    writer.write(bytes).await?;
    writer.finish().await.map(drop)
}

async fn read(plane: &Plane, path: &str) -> Vec<u8> {
    let mut reader = plane.read(&Place::new(path), 0, None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(more) = reader.next().await.unwrap() {
        bytes.extend(more);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_reached_beside_its_shim() {
    let Some(bed) = bed::bed() else { return };
    let sandbox = bed.sandbox("plane").await;
    let container = bed.container("c", &oci(&["sleep", "100000"]));
    sandbox.create_container(container).await.unwrap();
    let init = sandbox
        .create_process("c", Command::default())
        .await
        .unwrap();
    init.start().await.unwrap();
    let dir = Layout::new(&bed.config.run).path(&key("plane"));
    let begun = Instant::now();
    let plane = Plane::open(&dir, "c").await.unwrap();
    println!("opened in {:?}", begun.elapsed());

    a_job_has_input_output_and_an_end(&plane).await;
    a_job_outlives_its_holder(&plane).await;
    a_job_is_killed_at_its_deadline(&plane).await;
    a_job_runs_on_a_terminal(&plane).await;
    what_a_job_leaves_behind_does_not_hold_up_its_end(&plane).await;
    a_job_that_cannot_start_says_why(&plane).await;
    a_user_is_made_on_demand(&plane).await;
    files_are_the_containers(&plane).await;
    files_are_listed_moved_and_removed(&plane).await;
    paths_do_not_lead_out(&plane).await;
    a_full_disk_is_told(&plane).await;
    a_directory_is_watched(&plane).await;
    figures_are_told(&plane).await;
    output_keeps_up(&plane).await;
    an_exec_prints_as_much(&sandbox).await;
    starts_are_compared(&plane, &sandbox).await;
    planes_come_and_go(&dir, &plane).await;

    // Deleted under a job, a watch and an open file.
    let job = plane.start(&shell("sleep 1000")).await.unwrap();
    let mut watch = plane.watch(&Place::new("/"), true, false).await.unwrap();
    let reader = plane
        .read(&Place::new("/bin/busybox"), 0, None)
        .await
        .unwrap();
    init.signal(SIGKILL, true).await.unwrap();
    init.wait().await;
    sandbox.delete_container("c").await.unwrap();
    assert_eq!(rest(job).await.end.signal, Some(SIGKILL));
    while let Ok(Some(_)) = watch.next().await {}
    drop(reader);
    assert_eq!(fault(plane.jobs().await), Fault::NoContainer);
    sandbox.destroy().await.unwrap();
    let gone = Plane::open(&dir, "c").await.unwrap_err();
    assert!(matches!(gone, PlaneError::NoSandbox { .. }), "{gone}");
    bed.assert_nothing_left();
}

async fn a_job_has_input_output_and_an_end(plane: &Plane) {
    let begun = Instant::now();
    let outcome = run(plane, "exit 0").await;
    println!("start to end: {:?}", begun.elapsed());
    assert_eq!(outcome.end.exit_code, 0);

    let script = "echo $$; pwd; echo $A $HOME $USER; cat; echo err >&2; exit 7";
    let job = StartJob {
        stdin: true,
        env: [("A".to_owned(), "1".to_owned())].into(),
        cwd: "/etc".into(),
        ..shell(script)
    };
    let output = plane.start(&job).await.unwrap();
    let name = JobRef::Pid(output.pid());
    plane.write_input(&name, b"hello\n").await.unwrap();
    plane.close_input(&name).await.unwrap();
    plane.close_input(&name).await.unwrap();
    assert_eq!(fault(plane.write_input(&name, b"x").await), Fault::NoInput);
    let pid = output.pid();
    let outcome = rest(output).await;
    // The number is the one that the process itself sees.
    assert_eq!(
        outcome.output,
        format!("{pid}\n/etc\n1 /root root\nhello\n")
    );
    assert_eq!(outcome.errors, "err\n");
    assert_eq!((outcome.end.exit_code, outcome.end.signal), (7, None));
}

async fn a_job_outlives_its_holder(plane: &Plane) {
    let script = "head -c 10000000 /dev/zero; read line; echo got $line; exec sleep 1000";
    let job = StartJob {
        stdin: true,
        tag: Some("tagged".into()),
        ..shell(script)
    };
    let holder = plane.start(&job).await.unwrap();
    let pid = holder.pid();
    drop(holder);
    let tag = JobRef::Tag("tagged".into());
    // Far more than pipes hold: it reads its input only if what it printed went somewhere.
    let mut first = plane.attach(&tag).await.unwrap();
    let mut second = plane.attach(&JobRef::Pid(pid)).await.unwrap();
    plane.write_input(&tag, b"it\n").await.unwrap();
    // Both at once: the slower of two holders sets the pace.
    let all = async |holder: &mut JobOutput| {
        let mut seen = Vec::new();
        while !seen.ends_with(b"got it\n") {
            match holder.next().await.unwrap().unwrap() {
                JobEvent::Output(bytes) => seen.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
    };
    let both = async { tokio::join!(all(&mut first), all(&mut second)) };
    timeout(LIMIT, both).await.unwrap();
    drop(second);
    let jobs = plane.jobs().await.unwrap();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!((jobs[0].pid, jobs[0].tag.as_deref()), (pid, Some("tagged")));
    assert_eq!(jobs[0].args, ["-c", script]);

    plane.signal(&tag, SIGKILL, false).await.unwrap();
    let end = rest(first).await.end;
    assert_eq!((end.signal, end.exit_code), (Some(SIGKILL), 0));
    // Whoever was away is told as well, for a while.
    assert_eq!(rest(plane.attach(&tag).await.unwrap()).await.end, end);
    assert_eq!(plane.wait(&JobRef::Pid(pid)).await.unwrap(), end);
    assert!(plane.jobs().await.unwrap().is_empty());
    assert_eq!(
        fault(plane.signal(&tag, SIGKILL, false).await),
        Fault::NoJob
    );
}

async fn a_job_is_killed_at_its_deadline(plane: &Plane) {
    let job = StartJob {
        deadline: Some(Duration::from_millis(500)),
        // The child is in the group and holds the output.
        ..shell("sleep 1000; echo never")
    };
    let outcome = rest(plane.start(&job).await.unwrap()).await;
    assert_eq!(outcome.end.signal, Some(SIGKILL));
    assert_eq!(outcome.output, "");
}

async fn a_job_runs_on_a_terminal(plane: &Plane) {
    let job = StartJob {
        terminal: Some(TerminalSize {
            columns: 80,
            rows: 24,
        }),
        ..shell("busybox stty size; read x; busybox stty size; tty=$(busybox tty); echo on $tty")
    };
    let output = plane.start(&job).await.unwrap();
    let name = JobRef::Pid(output.pid());
    let size = TerminalSize {
        columns: 100,
        rows: 30,
    };
    // Only once the first size was printed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    plane.resize(&name, size).await.unwrap();
    assert_eq!(fault(plane.close_input(&name).await), Fault::NoInput);
    plane.write_input(&name, b"\n").await.unwrap();
    let outcome = rest(output).await;
    for words in ["24 80\r\n", "30 100\r\n", "on /dev/pts/"] {
        assert!(outcome.output.contains(words), "{outcome:?}");
    }
}

async fn what_a_job_leaves_behind_does_not_hold_up_its_end(plane: &Plane) {
    let begun = Instant::now();
    let outcome = run(plane, "sleep 1000 & echo left").await;
    assert_eq!(outcome.output, "left\n");
    assert_eq!(outcome.end.exit_code, 0);
    assert!(begun.elapsed() < LIMIT);
}

async fn a_job_that_cannot_start_says_why(plane: &Plane) {
    let bad_cwd = StartJob {
        cwd: "/no/such".into(),
        ..shell("true")
    };
    let error = plane.start(&bad_cwd).await.unwrap_err();
    assert_eq!(error.fault(), Some(Fault::NoCwd));
    assert!(
        error.to_string().contains("cwd '/no/such' does not exist"),
        "{error}"
    );
    let bad_user = StartJob {
        user: "somebody".into(),
        ..shell("true")
    };
    assert_eq!(fault(plane.start(&bad_user).await), Fault::NoUser);
    let bad_program = StartJob {
        command: "no-such-program".into(),
        ..StartJob::default()
    };
    assert_eq!(fault(plane.start(&bad_program).await), Fault::NotStarted);
    let too_long = StartJob {
        env: [("A".to_owned(), "x".repeat(2 << 20))].into(),
        ..shell("true")
    };
    let error = plane.start(&too_long).await.unwrap_err();
    assert!(matches!(error, PlaneError::TooLong { .. }), "{error}");
    assert_eq!(
        fault(plane.attach(&JobRef::Pid(4_000_000)).await),
        Fault::NoJob
    );
}

async fn a_user_is_made_on_demand(plane: &Plane) {
    let user = plane.ensure_user("user").await.unwrap();
    assert_eq!((user.uid, user.home.as_str()), (1000, "/home/user"));
    assert_eq!(plane.ensure_user("user").await.unwrap(), user);
    let job = StartJob {
        user: "user".into(),
        ..shell("id -u; pwd; echo $HOME; echo mine > made; ls -ld /home/user/made")
    };
    let outcome = rest(plane.start(&job).await.unwrap()).await;
    let lines: Vec<_> = outcome.output.lines().collect();
    assert_eq!(
        lines[..3],
        ["1000", "/home/user", "/home/user"],
        "{outcome:?}"
    );
    let entry = plane.stat(&Place::of_user("made", "user")).await.unwrap();
    assert_eq!(
        (entry.owner.as_str(), entry.path.as_str()),
        ("user", "/home/user/made")
    );
}

async fn files_are_the_containers(plane: &Plane) {
    let place = Place::of_user("a/b/f", "user");
    let metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let mut writer = plane.write(&place, &metadata).await.unwrap();
    let content: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    writer.write(&content).await.unwrap();
    let entry = writer.finish().await.unwrap();
    assert_eq!(
        (entry.path.as_str(), entry.size),
        ("/home/user/a/b/f", 2_000_000)
    );
    assert_eq!((entry.kind, &entry.metadata), (EntryKind::File, &metadata));
    assert_eq!(entry.permissions, "-rw-r--r--");
    assert!(read(plane, "/home/user/a/b/f").await == content);
    let outcome = run(plane, "ls -ld /home/user/a").await;
    assert!(outcome.output.contains("user"), "{outcome:?}");
    // A part of it.
    let mut part = plane.read(&place, 1_999_000, Some(10)).await.unwrap();
    assert_eq!(
        part.next().await.unwrap().unwrap(),
        content[1_999_000..1_999_010]
    );
    assert_eq!(part.next().await.unwrap(), None);

    // /proc is the container's, and its files have no size.
    assert!(!read(plane, "/proc/meminfo").await.is_empty());
    let comm = read(plane, "/proc/1/comm").await;
    assert_eq!(comm, b"sleep\n");
    // So are its tmpfs.
    write(plane, "/dev/from-outside", "", b"seen\n")
        .await
        .unwrap();
    assert_eq!(run(plane, "cat /dev/from-outside").await.output, "seen\n");

    let missing = plane.read(&Place::new("/none"), 0, None).await;
    assert_eq!(fault(missing), Fault::NoPath);
    let directory = plane.read(&Place::new("/etc"), 0, None).await;
    assert_eq!(fault(directory), Fault::IsADirectory);
    let device = plane.read(&Place::new("/dev/zero"), 0, None).await;
    assert_eq!(fault(device), Fault::SpecialFile);
    assert_eq!(
        fault(write(plane, "/x", "nobody", b"").await),
        Fault::NoUser
    );
}

async fn files_are_listed_moved_and_removed(plane: &Plane) {
    let place = |path: &str| Place::new(path);
    let made = plane.make_directory(&place("/t/d")).await.unwrap();
    assert_eq!(made.kind, EntryKind::Directory);
    assert_eq!(
        fault(plane.make_directory(&place("/t/d")).await),
        Fault::Exists
    );
    write(plane, "/t/d/f", "", b"1").await.unwrap();
    run(plane, "ln -s d /t/link || busybox ln -s d /t/link").await;
    let names = async |path: &str, depth| {
        let listing = plane.list(&Place::new(path), depth).await.unwrap();
        let entries = listing.all().await.unwrap();
        let paths = entries.into_iter().map(|entry| entry.path);
        paths.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("/t", 1).await, "/t/d /t/link");
    assert_eq!(names("/t", 2).await, "/t/d /t/d/f /t/link");
    let link = plane.stat(&place("/t/link")).await.unwrap();
    assert_eq!(link.symlink_target.as_deref(), Some("/t/d"));
    assert_eq!(link.kind, EntryKind::Directory);
    let moved = plane
        .rename(&place("/t/d/f"), &place("/t/new/g"))
        .await
        .unwrap();
    assert_eq!(moved.path, "/t/new/g");
    write(plane, "/t/h", "", b"2").await.unwrap();
    let parts = ["/t/new/g".to_owned(), "/t/h".to_owned()];
    plane.compose(&parts, &place("/t/whole")).await.unwrap();
    assert_eq!(read(plane, "/t/whole").await, b"12");
    assert_eq!(names("/t", 2).await, "/t/d /t/link /t/new /t/whole");
    plane.remove(&place("/t")).await.unwrap();
    plane.remove(&place("/t")).await.unwrap();
    assert_eq!(fault(plane.stat(&place("/t")).await), Fault::NoPath);
}

async fn paths_do_not_lead_out(plane: &Plane) {
    let script = "busybox ln -s ../../../../../../run/cube /up; busybox ln -s /proc/1/root /magic";
    assert_eq!(run(plane, script).await.end.exit_code, 0);
    // The machine's own, which the container does not have.
    for path in [
        "/run/cube/machine-id",
        "/up/machine-id",
        "/../../run/cube/machine-id",
    ] {
        let found = plane.stat(&Place::new(path)).await;
        assert_eq!(fault(found), Fault::NoPath, "{path}");
    }
    assert!(plane.stat(&Place::new("/magic/etc")).await.is_err());
    plane.remove(&Place::new("/up")).await.unwrap();
    plane.remove(&Place::new("/magic")).await.unwrap();
}

async fn a_full_disk_is_told(plane: &Plane) {
    let place = Place::new("/big");
    let mut writer = plane.write(&place, &BTreeMap::new()).await.unwrap();
    let chunk = vec![7; 1 << 20];
    let fill = async {
        for _ in 0..64 {
            writer.write(&chunk).await?;
        }
        writer.finish().await
    };
    assert_eq!(fault(timeout(LIMIT, fill).await.unwrap()), Fault::NoSpace);
    plane.remove(&place).await.unwrap();
}

async fn a_directory_is_watched(plane: &Plane) {
    plane.make_directory(&Place::new("/w")).await.unwrap();
    let mut watch = plane.watch(&Place::new("/w"), true, true).await.unwrap();
    let script = "busybox mkdir -p /w/a/b; echo x > /w/a/b/f; busybox chmod 600 /w/a/b/f; \
                  busybox mv /w/a/b/f /w/g; busybox rm /w/g";
    run(plane, script).await;
    let mut seen: Vec<(WatchKind, String)> = Vec::new();
    while seen.last() != Some(&(WatchKind::Remove, "g".to_owned())) {
        let event = timeout(LIMIT, watch.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        seen.push((event.kind, event.name));
    }
    for (kind, name) in [
        (WatchKind::Create, "a"),
        (WatchKind::Create, "a/b"),
        (WatchKind::Create, "a/b/f"),
        (WatchKind::Chmod, "a/b/f"),
        (WatchKind::Rename, "a/b/f"),
        (WatchKind::Create, "g"),
    ] {
        assert!(
            seen.contains(&(kind, name.to_owned())),
            "{name} in {seen:?}"
        );
    }
    plane.remove(&Place::new("/w")).await.unwrap();
    let over = async { while watch.next().await.unwrap().is_some() {} };
    timeout(LIMIT, over).await.unwrap();
    let none = plane.watch(&Place::new("/w"), false, false).await;
    assert_eq!(fault(none), Fault::NoPath);
}

async fn figures_are_told(plane: &Plane) {
    let metrics = plane.metrics().await.unwrap();
    println!("{metrics:?}");
    assert!(metrics.cpu_count >= 1);
    assert!((0.0..=100.0).contains(&metrics.cpu_used_percent));
    assert!(metrics.memory_used > 0 && metrics.memory_used < metrics.memory_total);
    assert!(metrics.disk_used > 0 && metrics.disk_used < metrics.disk_total);
}

async fn output_keeps_up(plane: &Plane) {
    const BYTES: usize = 50_000_000;
    let begun = Instant::now();
    let mut job = plane
        .start(&shell(&format!("head -c {BYTES} /dev/zero")))
        .await
        .unwrap();
    let mut count = 0;
    while let Some(event) = job.next().await.unwrap() {
        match event {
            JobEvent::Output(bytes) => count += bytes.len(),
            JobEvent::Errors(_) => {}
            JobEvent::End(end) => assert_eq!(end.exit_code, 0),
        }
    }
    assert_eq!(count, BYTES);
    println!("50 MB of output in {:?}", begun.elapsed());
}

/// For comparison: a stream of its own, without frames.
async fn an_exec_prints_as_much(sandbox: &Sandbox) {
    let command = Command {
        exec_id: "e".into(),
        process_json: Some(
            process(&["head", "-c", "50000000", "/dev/zero"])
                .to_string()
                .into_bytes(),
        ),
        stdout: true,
        ..Command::default()
    };
    let begun = Instant::now();
    let mut exec = sandbox.create_process("c", command).await.unwrap();
    let mut stdout = exec.take_stdout().unwrap();
    exec.start().await.unwrap();
    let count = tokio::io::copy(&mut stdout, &mut tokio::io::sink())
        .await
        .unwrap();
    assert_eq!(count, 50_000_000);
    println!("50 MB of an exec in {:?}", begun.elapsed());
    exec.wait().await;
    exec.delete().await.unwrap();
}

/// Start to end of a shell that does nothing, as a job and as an exec.
async fn starts_are_compared(plane: &Plane, sandbox: &Sandbox) {
    const TIMES: usize = 11;
    let (mut jobs, mut execs) = (Vec::new(), Vec::new());
    for number in 0..TIMES {
        let begun = Instant::now();
        run(plane, "exit 0").await;
        jobs.push(begun.elapsed());
        let command = Command {
            exec_id: format!("e{number}"),
            process_json: Some(process(&["sh", "-c", "exit 0"]).to_string().into_bytes()),
            stdout: true,
            stderr: true,
            ..Command::default()
        };
        let begun = Instant::now();
        let exec = sandbox.create_process("c", command).await.unwrap();
        exec.start().await.unwrap();
        exec.wait().await;
        execs.push(begun.elapsed());
        exec.delete().await.unwrap();
    }
    jobs.sort();
    execs.sort();
    let (job, exec) = (jobs[TIMES / 2], execs[TIMES / 2]);
    println!("start to end, median of {TIMES}: job {job:?}, exec {exec:?}");
}

async fn planes_come_and_go(dir: &std::path::Path, plane: &Plane) {
    let job = plane.start(&shell("exec sleep 1000")).await.unwrap();
    let pid = job.pid();
    for _ in 0..20 {
        let other = Plane::open(dir, "c").await.unwrap();
        assert_eq!(other.jobs().await.unwrap().len(), 1);
        drop(other.attach(&JobRef::Pid(pid)).await.unwrap());
    }
    let etc = Place::new("/etc");
    let many = (0..20).map(|_| plane.stat(&etc));
    for entry in futures::future::join_all(many).await {
        entry.unwrap();
    }
    plane
        .signal(&JobRef::Pid(pid), SIGKILL, true)
        .await
        .unwrap();
    assert_eq!(rest(job).await.end.signal, Some(SIGKILL));
    let no_container = Plane::open(dir, "other").await.unwrap();
    assert_eq!(fault(no_container.jobs().await), Fault::NoContainer);
}
