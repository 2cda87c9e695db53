// SPDX-License-Identifier: Apache-2.0
//! Bytes in and out.

use cube_protocol::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::spec::{process, shell, spec};
use crate::world::{PATIENCE, refusal, world};

/// Reads until the text is there.
pub async fn read_until(stream: &mut UnixStream, text: &str) -> String {
    let mut seen = String::new();
    let read = async {
        while !seen.contains(text) {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "ended after {seen:?}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, read).await;
    assert!(in_time.is_ok(), "no {text:?} in {seen:?}");
    seen
}

/// Reads until there are so many lines.
pub async fn read_lines(stream: &mut UnixStream, count: usize) -> String {
    let mut seen = String::new();
    while seen.lines().count() < count {
        seen.push_str(&read_until(stream, "\n").await);
    }
    seen
}

#[tokio::test]
async fn streams_are_apart_and_complete() {
    let world = world!();
    let output = world.sh("echo out; echo err >&2; cat; seq 1 20000").await;
    assert!(output.stdout.starts_with("out\n1\n2\n"));
    assert!(output.stdout.ends_with("\n19999\n20000\n"));
    assert_eq!(output.stderr, "err\n");
}

#[tokio::test]
async fn sixteen_mebibytes_pass_through_cat_unchanged() {
    let world = world!();
    world.create("c", &spec(process(&["cat"]))).await.unwrap();
    let (_, streams) = world.create_process("c", "", None, false).await.unwrap();
    world.start_process("c", "").await.unwrap();
    // A sequence without a short period, so that a lost or doubled block shows.
    let sent: Vec<u8> = (0_u32..4 << 20)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let expected = sent.clone();
    let mut stdin = streams.stdin.unwrap();
    let writer = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
        stdin
    });
    let mut received = Vec::new();
    let mut stdout = streams.stdout.unwrap();
    stdout.read_to_end(&mut received).await.unwrap();
    assert!(received == expected, "{} bytes differ", received.len());
    assert_eq!(world.wait("c", "").await.exit_status, 0);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer_and_loses_nothing() {
    let world = world!();
    world
        .create(
            "c",
            &spec(shell("head -c 4000000 /dev/zero; echo done >&2")),
        )
        .await
        .unwrap();
    let (_, mut streams) = world.create_process("c", "", None, false).await.unwrap();
    world.start_process("c", "").await.unwrap();
    let mut stderr = streams.stderr.take().unwrap();
    let mut buffer = [0; 16];
    let early = tokio::time::timeout(
        std::time::Duration::from_millis(500),
        stderr.read(&mut buffer),
    )
    .await;
    assert!(early.is_err(), "the process did not wait");
    let mut received = Vec::new();
    streams
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut received)
        .await
        .unwrap();
    assert_eq!(received.len(), 4_000_000);
    read_until(&mut stderr, "done\n").await;
}

#[tokio::test]
async fn a_background_child_keeps_the_stream_but_not_the_exit() {
    let world = world!();
    world.idle("c").await;
    let script = shell("(sleep 1000 &); echo started");
    let (_, mut streams) = world
        .create_process("c", "e", Some(&script), false)
        .await
        .unwrap();
    world.start_process("c", "e").await.unwrap();
    assert_eq!(world.wait("c", "e").await.exit_status, 0);
    let stdout = streams.stdout.as_mut().unwrap();
    read_until(stdout, "started\n").await;
    let mut buffer = [0; 16];
    let open = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        stdout.read(&mut buffer),
    )
    .await;
    assert!(open.is_err(), "the child's end was closed");
    // Forgetting the process closes its streams, whoever holds them.
    world.delete_process("c", "e").await.unwrap();
    assert_eq!(stdout.read(&mut buffer).await.unwrap(), 0);
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn output_after_the_exit_is_still_delivered() {
    let world = world!();
    world.create("c", &spec(shell("seq 1 5000"))).await.unwrap();
    let (_, streams) = world.create_process("c", "", None, false).await.unwrap();
    world.start_process("c", "").await.unwrap();
    assert_eq!(world.wait("c", "").await.exit_status, 0);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let mut text = String::new();
    streams
        .stdout
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert!(text.ends_with("\n5000\n"));
}

#[tokio::test]
async fn streams_must_be_connected_once_and_before_the_start() {
    let world = world!();
    world.create("c", &spec(shell("true"))).await.unwrap();
    let mut request = cube_protocol::v1::agent::CreateProcessRequest::new();
    request.container_id = "c".to_owned();
    request.stdout = true;
    world
        .client
        .create_process(crate::world::soon(), &request)
        .await
        .unwrap();
    let (code, text) = refusal(world.start_process("c", "").await);
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
    assert!(text.contains("stdout"), "{text}");
    let _stdout = world.attach("c", "", Stdio::Stdout).await.unwrap();
    for (exec_id, stream) in [
        ("", Stdio::Stdout),
        ("", Stdio::Stderr),
        ("x", Stdio::Stdout),
    ] {
        assert!(world.attach("c", exec_id, stream).await.is_none());
    }
    world.start_process("c", "").await.unwrap();
    let (code, _) = refusal(world.start_process("c", "").await);
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
}
