// SPDX-License-Identifier: Apache-2.0
//! Names that say nothing, programs that do not start (`no-drawers`, `scripts-run`).

use super::Finding;
use super::tree::SourceFile;

/// A module of such a name ends up with whatever has no home.
const DRAWERS: [&str; 10] = [
    "base",
    "common",
    "helper",
    "helpers",
    "misc",
    "shared",
    "stuff",
    "util",
    "utilities",
    "utils",
];

/// No file or directory of code is named after nothing.
pub fn drawers(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() && !file.is_script() {
        return Vec::new();
    }
    let parts = file
        .path
        .split('/')
        .map(|part| part.split('.').next().unwrap_or(part));
    parts
        .filter(|part| DRAWERS.contains(part))
        .map(|part| {
            Finding::about(
                "no-drawers",
                &file.path,
                format!("\"{part}\": name what is provided"),
            )
        })
        .collect()
}

/// A file with an interpreter can be executed, and one that can be executed has an interpreter.
pub fn programs(file: &SourceFile) -> Vec<Finding> {
    let why = match (file.text.starts_with("#!/"), file.executable) {
        (true, false) => "has an interpreter line but not the executable bit",
        (false, true) => "has the executable bit but no interpreter line",
        _ => return Vec::new(),
    };
    vec![Finding::at("scripts-run", &file.path, 1, why)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawer_is_found_wherever_it_is_in_the_path() {
        for (path, findings) in [
            ("vmm/src/util.rs", 1),
            ("vmm/common/src/lib.rs", 1),
            ("dev/misc.py", 1),
            ("vmm/src/utility_meter.rs", 0),
            ("docs/common.md", 0),
        ] {
            let found = drawers(&SourceFile::new(path, ""));
            assert_eq!(found.len(), findings, "{path}");
        }
    }

    #[test]
    fn interpreter_and_executable_bit_go_together() {
        for (text, executable, findings) in [
            ("#!/bin/sh\n", false, 1),
            ("#!/bin/sh\n", true, 0),
            ("import os\n", true, 1),
            ("import os\n", false, 0),
        ] {
            let mut file = SourceFile::new("dev/x", text);
            file.executable = executable;
            assert_eq!(programs(&file).len(), findings, "{text}");
        }
    }
}
