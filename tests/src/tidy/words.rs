// SPDX-License-Identifier: Apache-2.0
//! What must not be left behind in a file (`nothing-left-behind`, `no-workplace`).
//!
//! The words are written in pieces, so that the rules can read their own file.

use std::path::Path;

use super::Finding;
use super::tree::SourceFile;

/// Notes to oneself: they belong into an issue.
const NOTES: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
/// The beginnings of lines that an unfinished merge leaves.
const MERGE_MARKERS: [&str; 3] = [
    concat!("<<<<", "<<< "),
    concat!("||||", "||| "),
    concat!(">>>>", ">>> "),
];
/// Words about how a text came about, instead of what it says.
const BACKSTAGE: [&str; 4] = [
    concat!("../sha", "red"),
    concat!("co-auth", "ored-by"),
    concat!("as an a", "i "),
    concat!("assis", "tant"),
];
/// The only hosts that a document or a program may name. What is fetched comes from where the
/// machine's own configuration says, never from an address written here.
const HOSTS: [&str; 18] = [
    "127.0.0.1",
    "containerd.io",
    "developer.arm.com",
    "docs.kernel.org",
    "docs.oasis-open.org",
    "docs.rs",
    "doc.rust-lang.org",
    "github.com",
    "keepachangelog.com",
    "kernel.org",
    "localhost",
    "man7.org",
    "opencontainers.org",
    "rustup.rs",
    "semver.org",
    "snapshot.debian.org",
    "www.apache.org",
    "www.kernel.org",
];

/// No notes to oneself and no rests of a merge.
pub fn rests(file: &SourceFile) -> Vec<Finding> {
    find(file, "nothing-left-behind", |line| {
        let is_word = |word: &&&str| {
            line.split(|c: char| !c.is_alphanumeric())
                .any(|part| part == **word)
        };
        if let Some(note) = NOTES.iter().find(is_word) {
            return Some(format!("\"{note}\": do it, or file an issue"));
        }
        MERGE_MARKERS
            .iter()
            .find(|marker| line.starts_with(**marker))
            .map(|_| "a merge marker".to_string())
    })
}

/// Nothing about the place where it was written or the way it was fetched.
pub fn workplace(file: &SourceFile, root: &Path) -> Vec<Finding> {
    let root = root.to_string_lossy();
    // The directory that holds the checkouts, unless it is one that every system has.
    let parent = root.rsplit_once('/').map_or("", |(parent, _)| parent);
    let is_telling = |place: &str| place.matches('/').count() > 1 || place == concat!("/wo", "rk");
    find(file, "no-workplace", |line| {
        let lower = line.to_lowercase();
        if let Some(word) = BACKSTAGE.iter().find(|word| lower.contains(**word)) {
            return Some(format!("\"{}\" says how it was written", word.trim()));
        }
        for place in [&*root, parent] {
            if is_telling(place) && names_path(line, place) {
                return Some(format!("{place} is a path of one machine"));
            }
        }
        hosts(line)
            .find(|host| !HOSTS.contains(host))
            .map(|host| format!("host {host} is not in the list of {}", file!()))
    })
}

fn find(
    file: &SourceFile,
    rule: &'static str,
    judge: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    // The lock file names the index of the packages; the licence is not ours to word.
    if matches!(file.file_name(), "Cargo.lock" | "LICENSE") {
        return Vec::new();
    }
    let lines = file.text.lines().enumerate();
    lines
        .filter_map(|(at, line)| Some(Finding::at(rule, &file.path, at + 1, judge(line)?)))
        .collect()
}

/// Whether `path` stands in the line as a path of its own, not as the end of a longer one.
fn names_path(line: &str, path: &str) -> bool {
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '}' | ')');
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        !before.is_some_and(is_path) && after == Some('/')
    })
}

/// The hosts of the web addresses in a line; a host that is filled in at run time is none.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").filter_map(|(at, _)| {
        let scheme = &line[..at];
        let is_web =
            scheme.ends_with("http") || scheme.ends_with("https") || scheme.ends_with("git");
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-';
        let host = line[at + 3..]
            .split(end)
            .next()
            .unwrap_or("")
            .trim_end_matches('.');
        (is_web && host.contains(|c: char| c.is_ascii_alphanumeric())).then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(text: &str) -> usize {
        rests(&SourceFile::new("a.rs", text)).len()
    }

    fn place(text: &str) -> usize {
        workplace(&SourceFile::new("a.rs", text), Path::new("/srv/desk/cube")).len()
    }

    #[test]
    fn notes_to_oneself_are_found() {
        for note in NOTES {
            assert_eq!(rest(&format!("// {note}: later\n")), 1, "{note}");
        }
        assert_eq!(rest(concat!("let TO", "DOS = \"x", "xx\";\n")), 0);
    }

    #[test]
    fn merge_markers_are_found_at_the_start_of_a_line() {
        for marker in MERGE_MARKERS {
            assert_eq!(rest(&format!("a\n{marker}main\nb\n")), 1, "{marker}");
            assert_eq!(rest(&format!("a {marker}main\n")), 0, "{marker}");
        }
    }

    #[test]
    fn words_from_backstage_are_found() {
        for word in BACKSTAGE {
            assert_eq!(place(&format!("// {}\n", word.to_uppercase())), 1, "{word}");
        }
    }

    #[test]
    fn paths_of_the_machine_are_found() {
        assert_eq!(place("include \"/srv/desk/cube/x\"\n"), 1);
        assert_eq!(place("in /srv/desk/notes\n"), 1);
        assert_eq!(place("in {root}/srv/desk/cube/x, /srv/desks/x\n"), 0);
    }

    #[test]
    fn unknown_hosts_are_found() {
        assert_eq!(place(concat!("get https", "://mirror.example/simple\n")), 1);
        assert_eq!(place("see https://docs.kernel.org/virt/kvm/api.html\n"), 0);
        assert_eq!(place("http://{host}:{port}/ unix:///run/x.sock\n"), 0);
    }

    #[test]
    fn the_lock_file_and_the_licence_are_not_ours_to_word() {
        let text = concat!("https", "://mirror.example\n");
        assert_eq!(
            workplace(&SourceFile::new("Cargo.lock", text), Path::new("/x/y/z")).len(),
            0
        );
    }
}
