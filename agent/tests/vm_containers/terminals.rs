// SPDX-License-Identifier: Apache-2.0
//! Processes on a terminal.

use cube_protocol::v1::agent::ResizeTerminalRequest;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::spec::{shell, spec};
use crate::streams::read_until;
use crate::world::{refusal, soon, world};

fn resize(id: &str, exec_id: &str, columns: u32, rows: u32) -> ResizeTerminalRequest {
    let mut request = ResizeTerminalRequest::new();
    request.container_id = id.to_owned();
    request.exec_id = exec_id.to_owned();
    request.columns = columns;
    request.rows = rows;
    request
}

#[tokio::test]
async fn a_first_process_has_a_terminal_with_echo_size_and_console() {
    let world = world!();
    let mut process = shell(
        "tty; stty size; test -c /dev/console && echo console; read line; echo got $line; trap 'stty size; exit 5' WINCH; while :; do sleep 0.1; done",
    );
    process["consoleSize"] = json!({"width": 100, "height": 30});
    process["user"] = json!({"uid": 1000, "gid": 1000});
    world.create("c", &spec(process)).await.unwrap();
    let (_, mut streams) = world.create_process("c", "", None, true).await.unwrap();
    world.start_process("c", "").await.unwrap();
    let stdout = streams.stdout.as_mut().unwrap();
    let text = read_until(stdout, "console\r\n").await;
    assert_eq!(text, "/dev/pts/0\r\n30 100\r\nconsole\r\n");
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"hello\n")
        .await
        .unwrap();
    let text = read_until(stdout, "got hello\r\n").await;
    assert_eq!(text, "hello\r\ngot hello\r\n", "no echo");
    world
        .client
        .resize_terminal(soon(), &resize("c", "", 132, 43))
        .await
        .unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "43 132\r\n");
    assert_eq!(world.wait("c", "").await.exit_status, 5);
    world.delete("c").await.unwrap();
    world.assert_clean();
}

#[tokio::test]
async fn the_interrupt_key_reaches_a_further_process() {
    let world = world!();
    world.idle("c").await;
    let process =
        shell("trap 'echo interrupted; exit 7' INT; echo up; while :; do sleep 0.1; done");
    let (_, mut streams) = world
        .create_process("c", "t", Some(&process), true)
        .await
        .unwrap();
    world.start_process("c", "t").await.unwrap();
    let stdout = streams.stdout.as_mut().unwrap();
    read_until(stdout, "up\r\n").await;
    // Closing the input of a terminal does not hang it up.
    streams
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"\x03")
        .await
        .unwrap();
    drop(streams.stdin);
    read_until(stdout, "interrupted\r\n").await;
    assert_eq!(world.wait("c", "t").await.exit_status, 7);
}

#[tokio::test]
async fn what_has_no_terminal_cannot_be_resized() {
    let world = world!();
    world.idle("c").await;
    let (code, text) = refusal(
        world
            .client
            .resize_terminal(soon(), &resize("c", "", 1, 1))
            .await,
    );
    assert_eq!(code, ttrpc::Code::FAILED_PRECONDITION);
    assert_eq!(text, "the process has no terminal");
    let (code, _) = refusal(
        world
            .client
            .resize_terminal(soon(), &resize("c", "", 70_000, 1))
            .await,
    );
    assert_eq!(code, ttrpc::Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn a_terminal_needs_a_devpts_of_the_container() {
    let world = world!();
    let mut spec = spec(shell("true"));
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["destination"] != "/dev/pts");
    world.create("c", &spec).await.unwrap();
    let (_, text) = refusal(world.create_process("c", "", None, true).await.map(|_| ()));
    assert!(text.contains("/dev/pts/ptmx"), "{text}");
}
