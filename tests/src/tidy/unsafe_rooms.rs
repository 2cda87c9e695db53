// SPDX-License-Identifier: Apache-2.0
//! `unsafe` lives in two rooms (`two-unsafe-rooms`).

use super::Finding;
use super::code::without_words;
use super::tree::SourceFile;

const RULE: &str = "two-unsafe-rooms";
const ROOMS: [&str; 2] = ["vmm/hv/src/", "agent/src/sys.rs"];
/// Written in two pieces, so that this file does not switch the lint off in its own eyes.
const SWITCHES: [&str; 2] = [
    concat!("allow(unsafe", "_code"),
    concat!("expect(unsafe", "_code"),
];

/// Outside the rooms there is no `unsafe` and no way to allow it; a room opens with the reason why.
pub fn rooms(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let is_room = ROOMS.iter().any(|room| file.path.starts_with(room));
    let code = without_words(&file.text);
    if is_room {
        return unexplained(file, &code);
    }
    let lines = code.lines().enumerate();
    lines
        .filter(|(_, line)| {
            opens_unsafe(line) || SWITCHES.iter().any(|switch| line.contains(switch))
        })
        .map(|(at, _)| {
            Finding::at(
                RULE,
                &file.path,
                at + 1,
                format!("unsafe outside {}", ROOMS.join(" and ")),
            )
        })
        .collect()
}

fn unexplained(file: &SourceFile, code: &str) -> Vec<Finding> {
    let is_explained = file
        .text
        .lines()
        .any(|line| line.starts_with("// UNSAFETY: "));
    match code.lines().position(opens_unsafe) {
        Some(at) if !is_explained => {
            let why = "a module with unsafe code opens with `// UNSAFETY: why`";
            vec![Finding::at(RULE, &file.path, at + 1, why)]
        }
        _ => Vec::new(),
    }
}

/// Whether the line has the keyword and not a longer word such as `unsafe_code`.
fn opens_unsafe(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, findings: usize) {
        assert_eq!(
            rooms(&SourceFile::new(path, text)).len(),
            findings,
            "{path}: {text}"
        );
    }

    #[test]
    fn unsafe_outside_its_rooms_is_found() {
        check(
            "vmm/src/main.rs",
            "fn f() { unsafe { g() } }\nunsafe impl Send for X {}\n",
            2,
        );
        check(
            "vmm/src/main.rs",
            concat!("#![allow(unsafe", "_code)]\n"),
            1,
        );
        check("agent/src/sys2.rs", "unsafe fn f() {}\n", 1);
    }

    #[test]
    fn words_about_unsafe_are_not_unsafe() {
        check(
            "vmm/src/main.rs",
            "// unsafe { }\nlet x = \"unsafe\";\n#![deny(unsafe_code)]\n",
            0,
        );
    }

    #[test]
    fn a_room_says_why() {
        check("vmm/hv/src/vm.rs", "fn f() { unsafe { g() } }\n", 1);
        check(
            "vmm/hv/src/vm.rs",
            "// UNSAFETY: ioctls\nfn f() { unsafe { g() } }\n",
            0,
        );
        check("vmm/hv/src/exit.rs", "fn f() {}\n", 0);
    }
}
