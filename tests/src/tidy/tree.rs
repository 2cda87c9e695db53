// SPDX-License-Identifier: Apache-2.0
//! The tree as the rules see it: every file that is, or would be, under version control.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file of the tree.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Relative to the top, with slashes.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// Whether its owner may execute it.
    pub executable: bool,
}

impl SourceFile {
    /// A file that is not on disk, for the tests of the rules.
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
            executable: false,
        }
    }

    /// The part of the name after the last dot, or nothing.
    pub fn extension(&self) -> &str {
        self.file_name().rsplit_once('.').map_or("", |(_, end)| end)
    }

    /// The last component of the path.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    /// Whether it is a program that some interpreter reads.
    pub fn is_script(&self) -> bool {
        matches!(self.extension(), "py" | "sh")
            || self.text.starts_with("#!/")
            || self.file_name() == "Makefile"
    }

    /// Whether all of it is test code. (An inline `mod tests` is for [`super::code::production`].)
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/');
        self.file_name() == "tests.rs" || parts.any(|part| part == "tests")
    }
}

/// All files, read once.
#[derive(Debug)]
pub struct Tree {
    /// The top of the checkout.
    pub root: PathBuf,
    /// In the order of their paths.
    pub files: Vec<SourceFile>,
}

impl Tree {
    /// Reads the checkout that this crate was built from. Files that are not text are left out.
    pub fn load() -> io::Result<Self> {
        let root = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
        let mut files = Vec::new();
        for path in list(&root)? {
            let full = root.join(&path);
            // A file may be listed and already be gone from the work tree.
            let Ok(metadata) = full.symlink_metadata() else {
                continue;
            };
            if !metadata.is_file() {
                continue;
            }
            if let Ok(text) = fs::read_to_string(&full) {
                files.push(SourceFile {
                    path,
                    text,
                    executable: metadata.permissions().mode() & 0o100 != 0,
                });
            }
        }
        Ok(Self { root, files })
    }

    /// Whether a file, a link or a directory of that name is there.
    pub fn has(&self, path: &Path) -> bool {
        self.root.join(path).exists()
    }

    /// The Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.is_rust())
    }
}

/// What git tracks, and what it would if everything new were added.
fn list(root: &Path) -> io::Result<Vec<String>> {
    let output = Command::new("git")
        // A checkout may belong to somebody else than root, who runs the tests.
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args([
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("git ls-files: {}", reason.trim())));
    }
    let names = String::from_utf8_lossy(&output.stdout);
    let mut paths: Vec<_> = names.split_terminator('\0').map(String::from).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_names_and_first_lines() {
        assert!(SourceFile::new("a/b.rs", "").is_rust());
        assert!(SourceFile::new("dev/vm", "#!/bin/sh\n").is_script());
        assert!(SourceFile::new("Makefile", "").is_script());
        assert!(!SourceFile::new("LICENSE", "").is_script());
        assert_eq!(SourceFile::new("a.b/LICENSE", "").extension(), "");
    }

    #[test]
    fn test_code_is_known_by_its_place() {
        assert!(SourceFile::new("vmm/src/bus/tests.rs", "").is_test());
        assert!(SourceFile::new("tests/src/ctr.rs", "").is_test());
        assert!(SourceFile::new("vmm/tests/boot.rs", "").is_test());
        assert!(!SourceFile::new("vmm/src/latest.rs", "").is_test());
    }

    #[test]
    fn this_file_is_in_the_tree() {
        let tree = Tree::load().unwrap();
        assert!(
            tree.rust()
                .any(|file| file.path == "tests/src/tidy/tree.rs")
        );
        assert!(tree.has(Path::new("Cargo.lock")));
    }
}
