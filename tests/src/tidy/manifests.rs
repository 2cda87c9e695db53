// SPDX-License-Identifier: Apache-2.0
//! Manifests of the crates: one list of lints, one list of versions (`rules-are-tests`, `one-version`).

use super::Finding;
use super::tree::SourceFile;

/// Whether it is the manifest of a crate, and not of the workspace.
fn is_member(file: &SourceFile) -> bool {
    file.file_name() == "Cargo.toml" && file.text.contains("[package]")
}

/// Every crate takes the workspace's lints, all of them.
pub fn lints(file: &SourceFile) -> Vec<Finding> {
    let takes_lints =
        sections(&file.text).any(|(_, name, line)| name == "lints" && line == "workspace = true");
    if !is_member(file) || takes_lints {
        return Vec::new();
    }
    let why = "no [lints] workspace = true";
    vec![Finding::about("rules-are-tests", &file.path, why)]
}

/// Versions and paths are written once, in the workspace's manifest.
pub fn versions(file: &SourceFile) -> Vec<Finding> {
    if !is_member(file) {
        return Vec::new();
    }
    sections(&file.text)
        .filter(|(_, name, line)| {
            name.ends_with("dependencies") && !line.contains("workspace = true")
        })
        .map(|(at, _, line)| {
            let why = format!("`{line}`: its version belongs into [workspace.dependencies]");
            Finding::at("one-version", &file.path, at, why)
        })
        .collect()
}

/// Lines that are neither empty nor comments, with their number and the name of their section.
fn sections(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut section = "";
    text.lines().enumerate().filter_map(move |(at, line)| {
        let line = line.trim();
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
            return None;
        }
        let is_entry = !line.is_empty() && !line.starts_with('#');
        is_entry.then_some((at + 1, section, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&SourceFile) -> Vec<Finding>, text: &str, findings: usize) {
        let found = rule(&SourceFile::new("a/Cargo.toml", text));
        assert_eq!(found.len(), findings, "{text}: {found:?}");
    }

    #[test]
    fn a_crate_without_the_lints_is_found() {
        check(lints, "[package]\nname = \"a\"\n", 1);
        check(lints, "[package]\n[lints]\nworkspace = false\n", 1);
        check(lints, "[package]\n[lints.rust]\nworkspace = true\n", 1);
        check(lints, "[package]\n[lints]\nworkspace = true\n", 0);
        check(lints, "[workspace]\n", 0);
    }

    #[test]
    fn a_version_of_its_own_is_found() {
        check(
            versions,
            "[package]\n[dependencies]\nnix = \"1\"\nlibc.workspace = true\n",
            1,
        );
        check(
            versions,
            "[package]\n[dev-dependencies]\nx = { path = \"../x\" }\n",
            1,
        );
        check(
            versions,
            "[package]\n[dependencies]\nx = { workspace = true, features = [\"y\"] }\n",
            0,
        );
        check(versions, "[workspace.dependencies]\nnix = \"1\"\n", 0);
    }
}
