// SPDX-License-Identifier: Apache-2.0
//! How a file opens: the licence line, then what the module is (`stable-fmt`, `prose-at-the-door`).

use super::Finding;
use super::tree::SourceFile;

const LICENCE: &str = "SPDX-License-Identifier: Apache-2.0";
/// `//! x` is no description.
const SHORTEST_DESCRIPTION: usize = 12;

/// Every source file, script and manifest says its licence in its first line (the second of a script).
pub fn licence(file: &SourceFile) -> Vec<Finding> {
    let has_comments =
        file.is_rust() || file.is_script() || matches!(file.extension(), "toml" | "proto" | "yml");
    let is_ours = file.file_name() != "Cargo.lock" && !file.text.is_empty();
    let line = file
        .text
        .lines()
        .find(|line| !line.starts_with("#!/"))
        .unwrap_or("");
    let said = line.trim_start_matches(['/', '#', ' ']);
    if !has_comments || !is_ours || said == LICENCE {
        return Vec::new();
    }
    let why = format!("the first line has to be the comment \"{LICENCE}\"");
    vec![Finding::at("stable-fmt", &file.path, 1, why)]
}

/// Every Rust file says what it is before its first line of code.
pub fn description(file: &SourceFile) -> Vec<Finding> {
    let described = file
        .text
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("//") || line.starts_with("#!["))
        .any(|line| line.starts_with("//! ") && line.len() >= SHORTEST_DESCRIPTION);
    if !file.is_rust() || described {
        return Vec::new();
    }
    let why = "no `//!` that says what this module is";
    vec![Finding::at("prose-at-the-door", &file.path, 2, why)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&SourceFile) -> Vec<Finding>, path: &str, text: &str, findings: usize) {
        let found = rule(&SourceFile::new(path, text));
        assert_eq!(found.len(), findings, "{path}: {text}");
    }

    #[test]
    fn a_file_without_its_licence_is_found() {
        check(licence, "a.rs", "//! What it is.\n", 1);
        check(licence, "a.py", "\"\"\"What it is.\"\"\"\n", 1);
        check(licence, "a", "#!/bin/sh\nset -e\n", 1);
        check(licence, "a.rs", "// SPDX-License-Identifier: MIT\n", 1);
        check(licence, "Cargo.toml", "[package]\n", 1);
    }

    #[test]
    fn licensed_files_and_files_without_comments_are_not() {
        check(
            licence,
            "a.rs",
            "// SPDX-License-Identifier: Apache-2.0\n",
            0,
        );
        check(
            licence,
            "a",
            "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n",
            0,
        );
        check(licence, "a.json", "{}", 0);
        check(licence, "Cargo.lock", "# generated", 0);
        check(licence, "rustfmt.toml", "", 0);
    }

    #[test]
    fn a_module_that_does_not_say_what_it_is_is_found() {
        check(
            description,
            "a.rs",
            "// SPDX\nuse x;\n//! What this is.\n",
            1,
        );
        check(description, "a.rs", "// SPDX\n//! x\n", 1);
        check(
            description,
            "a.rs",
            "// SPDX\n#![allow(x)]\n//! What this is.\nuse x;\n",
            0,
        );
        check(description, "a.py", "import x\n", 0);
    }
}
