// SPDX-License-Identifier: Apache-2.0
//! Text that a guest chose, made fit for a log line or an error message: bounded and printable.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Longest text taken from a guest into a message: enough for a kernel's last lines, short enough
/// for a status that containerd prints on one line.
const MAX_CHARS: usize = 1024;

/// Bytes read from the end of a log: what a kernel says of its panic, registers and call trace included.
const TAIL_BYTES: u64 = 16 * 1024;

/// Lines taken from the end of a log.
const TAIL_LINES: usize = 6;

/// Lines taken from a panic on: the reason, and what it was about.
const PANIC_LINES: usize = 2;

/// How the line begins in which a Linux kernel gives the reason of its panic (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";

/// One printable line of at most [`MAX_CHARS`] characters: control characters (an escape sequence
/// could rewrite an operator's terminal) become spaces.
pub(crate) fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CHARS)
        .collect();
    line.truncate(line.trim_end().len());
    line
}

/// The last lines of a log file, joined; `None` if it is missing or empty.
pub(crate) fn tail_of(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    let lines = match panic {
        // What follows is a call trace, which is in the log for those who want it.
        Some(at) => lines.iter().skip(at).take(PANIC_LINES),
        None => {
            let before = lines.len().saturating_sub(TAIL_LINES);
            lines.iter().skip(before).take(TAIL_LINES)
        }
    };
    let lines: Vec<&str> = lines.copied().collect();
    let joined = lines.join(" | ");
    // The end is what matters: cut at the front.
    let surplus = joined.chars().count().saturating_sub(MAX_CHARS);
    let line = one_line(&joined.chars().skip(surplus).collect::<String>());
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(one_line("a\x1b[31mb\nc\r"), "a [31mb c");
    }

    proptest! {
        #[test]
        fn any_text_becomes_short_and_printable(text in ".*") {
            let line = one_line(&text);
            prop_assert!(line.chars().count() <= MAX_CHARS);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }

    #[test]
    fn the_tail_is_the_last_lines_even_of_a_long_binary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail_of(&path), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(tail_of(&path), None);
        let mut bytes = vec![0xff; 100_000];
        bytes.extend_from_slice(b"\nkernel panic\n\n  the end\n");
        std::fs::write(&path, bytes).unwrap();
        let tail = tail_of(&path).unwrap();
        assert!(tail.ends_with("kernel panic | the end"), "{tail}");
    }

    #[test]
    fn the_reason_of_a_panic_is_found_before_its_call_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let trace: String = (0..40).map(|n| format!("[ 2.{n}] frame{n}\n")).collect();
        let text = format!("[ 1.0] hello\n[ 2.0] {PANIC}: no init\n[ 2.0] CPU: 0\n{trace}");
        std::fs::write(&path, text).unwrap();
        let tail = tail_of(&path).unwrap();
        assert_eq!(tail, format!("[ 2.0] {PANIC}: no init | [ 2.0] CPU: 0"));
    }
}
