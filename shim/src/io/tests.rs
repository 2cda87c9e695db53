// SPDX-License-Identifier: Apache-2.0
//! Streams over real fifos, files and programs; the machine's side is a pair of sockets.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::sys::stat::Mode;
use rustix::fs::OFlags;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::*;

/// Long enough for anything that is to happen.
const SOON: Duration = Duration::from_secs(10);

const OWNER: Owner<'static> = Owner {
    namespace: "default",
    container: "t1",
};

/// The far ends of a process's streams, as the process has them.
struct Guest {
    stdin: UnixStream,
    stdout: UnixStream,
    stderr: UnixStream,
}

fn streams() -> (Streams, Guest) {
    let pair = || UnixStream::pair().unwrap();
    let ((in_near, stdin), (out_near, stdout), (err_near, stderr)) = (pair(), pair(), pair());
    let near = Streams {
        stdin: Some(in_near),
        stdout: Some(out_near),
        stderr: Some(err_near),
    };
    (
        near,
        Guest {
            stdin,
            stdout,
            stderr,
        },
    )
}

/// A guest that answers at once.
fn answering() -> Probe {
    Arc::new(|| Box::pin(std::future::ready(true)))
}

struct Fixture {
    dir: TempDir,
    stdio: Stdio,
}

impl Fixture {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Fifos as containerd's client makes them.
    fn fifos() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut fixture = Self {
            dir,
            stdio: Stdio::default(),
        };
        for name in ["in", "out", "err"] {
            nix::unistd::mkfifo(fixture.path(name).as_str(), Mode::S_IRWXU).unwrap();
        }
        fixture.stdio = Stdio {
            stdin: fixture.path("in"),
            stdout: fixture.path("out"),
            stderr: fixture.path("err"),
            terminal: false,
        };
        fixture
    }

    async fn attach(&self) -> (ProcessIo, Guest) {
        let opened = self.stdio.open(OWNER).await.unwrap();
        let (near, guest) = streams();
        let io = opened.attach(near, answering());
        io.start_input().unwrap();
        (io, guest)
    }

    /// A client that reads a fifo to its end, like containerd's: it opens when it gets to it.
    fn read_to_end(&self, name: &str) -> tokio::task::JoinHandle<Vec<u8>> {
        let path = self.path(name);
        spawn_blocking(move || {
            let mut bytes = Vec::new();
            File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        })
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[tokio::test]
async fn every_byte_of_both_outputs_arrives_before_their_end() {
    let fixture = Fixture::fifos();
    let (out, err) = (fixture.read_to_end("out"), fixture.read_to_end("err"));
    let (io, mut guest) = fixture.attach().await;
    let bytes = pattern(5 << 20);
    guest.stdout.write_all(&bytes).await.unwrap();
    guest.stderr.write_all(b"oops").await.unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
    assert!(timeout(SOON, out).await.unwrap().unwrap() == bytes);
    assert_eq!(timeout(SOON, err).await.unwrap().unwrap(), b"oops");
}

#[tokio::test]
async fn a_client_that_comes_after_the_end_still_gets_the_bytes() {
    let fixture = Fixture::fifos();
    let (io, mut guest) = fixture.attach().await;
    guest.stdout.write_all(b"early").await.unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
    drop(io);
    let out = fixture.read_to_end("out");
    assert_eq!(timeout(SOON, out).await.unwrap().unwrap(), b"early");
}

#[tokio::test]
async fn a_client_may_leave_and_another_come() {
    let fixture = Fixture::fifos();
    let (_io, mut guest) = fixture.attach().await;
    for word in [b"one", b"two"] {
        let path = fixture.path("out");
        let client = spawn_blocking(move || {
            let mut bytes = [0; 3];
            File::open(path).unwrap().read_exact(&mut bytes).unwrap();
            bytes
        });
        guest.stdout.write_all(word).await.unwrap();
        assert_eq!(&timeout(SOON, client).await.unwrap().unwrap(), word);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_process() {
    let fixture = Fixture::fifos();
    let (_io, guest) = fixture.attach().await;
    let chunk = vec![0; 64 << 10];
    let mut taken = 0;
    let flood = async {
        loop {
            guest.stdout.writable().await.unwrap();
            if let Ok(length) = guest.stdout.try_write(&chunk) {
                taken += length;
            }
        }
    };
    assert!(timeout(Duration::from_millis(500), flood).await.is_err());
    // The fifo, one chunk on the way, and the socket pair's own buffers.
    assert!(taken < 1 << 20, "{taken} bytes were taken");
}

#[tokio::test]
async fn delete_gives_up_on_a_client_that_never_reads() {
    let fixture = Fixture::fifos();
    let (io, guest) = fixture.attach().await;
    while guest.stdout.try_write(&[0; 4096]).is_ok() {
        tokio::task::yield_now().await;
    }
    io.process_ended();
    timeout(SOON, io.drain_within(Duration::from_millis(100)))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_is_not_waited_for() {
    let fixture = Fixture::fifos();
    let out = fixture.read_to_end("out");
    let (io, mut guest) = fixture.attach().await;
    guest.stdout.write_all(b"done\n").await.unwrap();
    io.process_ended();
    let started = std::time::Instant::now();
    timeout(SOON, io.drain()).await.unwrap();
    assert!(started.elapsed() < pump::SILENCE * 2);
    assert_eq!(timeout(SOON, out).await.unwrap().unwrap(), b"done\n");
    drop(guest);
}

#[tokio::test]
async fn a_guest_that_is_slow_loses_nothing() {
    let fixture = Fixture::fifos();
    let out = fixture.read_to_end("out");
    let opened = fixture.stdio.open(OWNER).await.unwrap();
    let (near, mut guest) = streams();
    let io = opened.attach(near, Arc::new(|| Box::pin(std::future::ready(false))));
    io.process_ended();
    tokio::time::sleep(pump::SILENCE + Duration::from_millis(500)).await;
    guest.stdout.write_all(b"late").await.unwrap();
    drop(guest);
    timeout(SOON, io.drain()).await.unwrap();
    assert_eq!(timeout(SOON, out).await.unwrap().unwrap(), b"late");
}

#[tokio::test]
async fn input_ends_only_after_close_io_and_the_last_client() {
    let fixture = Fixture::fifos();
    let (io, mut guest) = fixture.attach().await;
    let client = |word: &'static [u8]| {
        let path = fixture.path("in");
        spawn_blocking(move || {
            let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
            fifo.write_all(word).unwrap();
            fifo
        })
    };
    let mut word = [0; 3];
    drop(client(b"one").await.unwrap());
    timeout(SOON, guest.stdin.read_exact(&mut word))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&word, b"one");

    let last = client(b"two").await.unwrap();
    io.close_stdin();
    io.close_stdin();
    timeout(SOON, guest.stdin.read_exact(&mut word))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&word, b"two");
    let end = timeout(Duration::from_millis(200), guest.stdin.read(&mut word)).await;
    assert!(end.is_err(), "a client still has it open");

    drop(last);
    let end = timeout(SOON, guest.stdin.read(&mut word)).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}

/// Otherwise `echo x | ctr run ... cat` never ends: ctr reaches the end of its input before it has a task
/// for which it could ask for CloseIO.
#[tokio::test]
async fn no_client_gets_through_before_start() {
    let fixture = Fixture::fifos();
    let opened = fixture.stdio.open(OWNER).await.unwrap();
    let (near, mut guest) = streams();
    let io = opened.attach(near, answering());
    let path = fixture.path("in");
    let client = spawn_blocking(move || OpenOptions::new().write(true).open(path).unwrap());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!client.is_finished());
    io.start_input().unwrap();
    timeout(SOON, client)
        .await
        .unwrap()
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let mut byte = [0];
    timeout(SOON, guest.stdin.read_exact(&mut byte))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&byte, b"x");
}

#[tokio::test]
async fn a_large_input_arrives_whole() {
    let fixture = Fixture::fifos();
    let (io, mut guest) = fixture.attach().await;
    let bytes = pattern(3 << 20);
    let path = fixture.path("in");
    let open = spawn_blocking(move || OpenOptions::new().write(true).open(path).unwrap());
    let mut fifo = open.await.unwrap();
    let copy = bytes.clone();
    let client = spawn_blocking(move || fifo.write_all(&copy).unwrap());
    io.close_stdin();
    let mut received = Vec::new();
    timeout(SOON, guest.stdin.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
    client.await.unwrap();
    assert!(received == bytes);
}

#[tokio::test]
async fn close_io_before_the_process_ends_its_input_at_once() {
    let fixture = Fixture::fifos();
    let opened = fixture.stdio.open(OWNER).await.unwrap();
    let (near, mut guest) = streams();
    let io = opened.attach(near, answering());
    io.close_stdin();
    io.start_input().unwrap();
    let end = timeout(SOON, guest.stdin.read(&mut [0])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn null_everywhere_wants_no_streams() {
    let opened = Stdio::default().open(OWNER).await.unwrap();
    assert_eq!(opened.wanted(), (false, false, false));
}

#[tokio::test]
async fn a_terminal_has_no_error_stream() {
    let mut fixture = Fixture::fifos();
    fixture.stdio.terminal = true;
    let opened = fixture.stdio.open(OWNER).await.unwrap();
    assert_eq!(opened.wanted(), (true, true, false));
}

#[tokio::test]
async fn both_outputs_may_share_one_log_file() {
    let mut fixture = Fixture::fifos();
    let log = fixture.path("logs/deep/t1.log");
    fixture.stdio.stdout = format!("file://{log}");
    fixture.stdio.stderr = format!("file://{log}");
    let (io, mut guest) = fixture.attach().await;
    guest.stdout.write_all(b"out\n").await.unwrap();
    guest.stderr.write_all(b"err\n").await.unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
    let mut lines: Vec<_> = fs::read_to_string(log)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
}

#[tokio::test]
async fn a_plain_file_is_appended_to() {
    let mut fixture = Fixture::fifos();
    fixture.stdio.stdout = fixture.path("plain");
    fs::write(fixture.path("plain"), "before\n").unwrap();
    let (io, mut guest) = fixture.attach().await;
    guest.stdout.write_all(b"after\n").await.unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
    assert_eq!(
        fs::read_to_string(fixture.path("plain")).unwrap(),
        "before\nafter\n"
    );
}

#[tokio::test]
async fn a_target_that_fails_does_not_stop_the_process() {
    let mut fixture = Fixture::fifos();
    fixture.stdio.stdout = "/dev/full".to_owned();
    let (io, mut guest) = fixture.attach().await;
    let bytes = pattern(1 << 20);
    timeout(SOON, guest.stdout.write_all(&bytes))
        .await
        .unwrap()
        .unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
}

#[tokio::test]
async fn a_missing_target_is_named() {
    let mut fixture = Fixture::fifos();
    fixture.stdio.stdout = fixture.path("missing");
    let error = fixture.stdio.open(OWNER).await.err().unwrap();
    let text = error.to_string();
    assert!(
        text.starts_with("stdout could not be connected to"),
        "{text}"
    );
    assert!(text.contains("missing"), "{text}");
}

fn script(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_logger_reads_both_streams_and_knows_whose_they_are() {
    let mut fixture = Fixture::fifos();
    let log = fixture.path("log");
    let program = script(
        fixture.dir.path(),
        "logger",
        "exec 5>&-; { echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID $1=$2\"; cat <&3; cat <&4; } > \"$2\"",
    );
    let uri = format!("binary://{program}?log={log}");
    (fixture.stdio.stdout, fixture.stdio.stderr) = (uri.clone(), uri);
    let (io, mut guest) = fixture.attach().await;
    guest.stdout.write_all(b"out\n").await.unwrap();
    guest.stderr.write_all(b"err\n").await.unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text, format!("default/t1 log={log}\nout\nerr\n"));
}

#[tokio::test]
async fn a_logger_that_ends_before_it_is_ready_is_an_error_in_version_2() {
    let mut fixture = Fixture::fifos();
    let program = script(fixture.dir.path(), "logger", "exit 1");
    fixture.stdio.stdout = format!("binary-v2://{program}");
    let error = fixture.stdio.open(OWNER).await.err().unwrap();
    assert!(matches!(error, StdioError::LoggerGone { .. }), "{error}");
}

#[tokio::test]
async fn a_logger_that_is_not_there_is_an_error() {
    let mut fixture = Fixture::fifos();
    fixture.stdio.stdout = format!("binary://{}", fixture.path("nothing"));
    let error = fixture.stdio.open(OWNER).await.err().unwrap();
    assert!(matches!(error, StdioError::Logger { .. }), "{error}");
}

/// containerd opens its end without waiting, and long before us.
#[tokio::test]
async fn a_client_that_was_there_first_is_served() {
    let fixture = Fixture::fifos();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let open = || {
        OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(fixture.path("out"))
    };
    let mut client = open().unwrap();
    let (io, mut guest) = fixture.attach().await;
    guest.stdout.write_all(b"hello").await.unwrap();
    drop(guest);
    io.process_ended();
    timeout(SOON, io.drain()).await.unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"hello");
}
