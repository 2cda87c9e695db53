// SPDX-License-Identifier: Apache-2.0
//! Bytes in and out: apart, complete, unchanged; and terminals. On every containerd.

use std::time::Duration;

use cube_tests::bed::Bed;
use cube_tests::ctr::BUSYBOX;
use cube_tests::suite::{Case, case};
use cube_tests::terminal::Terminal;

use crate::MAIN;

pub const CASES: &[Case] = &[
    case("standard_output_and_error_stay_apart", apart),
    case("2_mib_through_stdin_come_back_unchanged", some),
    case("64_mib_through_stdin_come_back_unchanged", much).on(MAIN),
    case("output_right_before_the_end_is_complete", last_words).on(MAIN),
    case(
        "terminal_session_with_a_new_size_and_an_exit_code",
        terminal,
    ),
    case("exec_on_a_terminal_is_one", exec_terminal).resident(),
];

/// Emulated processors hand a pipe's few kilobytes to each other in milliseconds.
const COPY_LIMIT: Duration = Duration::from_secs(400);

fn apart(bed: &mut Bed) {
    let ended = bed.sh("apart", &[], "echo out; echo err >&2").succeeded();
    assert_eq!((ended.out(), ended.err()), ("out".into(), "err".into()));
}

fn some(bed: &mut Bed) {
    there_and_back(bed, 2 << 20);
}

fn much(bed: &mut Bed) {
    there_and_back(bed, 64 << 20);
}

fn there_and_back(bed: &mut Bed, length: usize) {
    let id = bed.id("back");
    let sent = noise(length);
    let ended = bed
        .run(&["--rm"], BUSYBOX, &id, &["cat"])
        .input(sent.clone())
        .limit(COPY_LIMIT)
        .run()
        .succeeded();
    assert_eq!(ended.stdout.len(), sent.len());
    let differs = ended
        .stdout
        .iter()
        .zip(&sent)
        .position(|(got, sent)| got != sent);
    assert_eq!(differs, None, "the first byte that is not as sent");
}

/// Bytes that repeat only after more of them than any buffer holds (xorshift64, Marsaglia 2003).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length / 8).flatten().collect()
}

fn last_words(bed: &mut Bed) {
    let ended = bed
        .sh("words", &[], "seq 1 20000; seq 1 20000 >&2")
        .succeeded();
    for text in [ended.out(), ended.err()] {
        assert_eq!(text.lines().count(), 20000);
        assert!(
            text.ends_with("\n20000"),
            "ends with {:?}",
            text.lines().next_back()
        );
    }
}

fn terminal(bed: &mut Bed) {
    let id = bed.id("terminal");
    let words = bed.run(&["--rm", "-t"], BUSYBOX, &id, &["sh"]).words();
    let mut terminal = Terminal::start(&words, &[("PATH", bed.path())], 91, 17);
    terminal.await_text("# ");
    terminal.type_text("stty size; tty\n");
    terminal.await_text("17 91");
    terminal.await_text("/dev/");
    terminal.resize(92, 18);
    terminal.type_text(
        "while ! stty size | grep '18 92'; do sleep 0.1; done; echo re''sized; exit 3\n",
    );
    terminal.await_text("resized");
    assert_eq!(terminal.await_end(), 3);
}

fn exec_terminal(bed: &mut Bed) {
    let (id, exec_id) = (bed.resident(), bed.id("exec"));
    let words = bed.ctr(&[
        "task",
        "exec",
        "-t",
        "--exec-id",
        &exec_id,
        &id,
        "sh",
        "-c",
        "test -t 0 && echo is a tty; exit 4",
    ]);
    let terminal = Terminal::start(&words.words(), &[("PATH", bed.path())], 80, 25);
    terminal.await_text("is a tty");
    assert_eq!(terminal.await_end(), 4);
}
