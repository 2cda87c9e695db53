// SPDX-License-Identifier: Apache-2.0
//! Links inside the documents lead somewhere (`links-lead-somewhere`).

use std::path::Path;

use super::Finding;
use super::tree::{SourceFile, Tree};

/// Every relative link of a Markdown file names something in the tree.
pub fn relative(file: &SourceFile, tree: &Tree) -> Vec<Finding> {
    if file.extension() != "md" {
        return Vec::new();
    }
    let here = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    targets(&file.text)
        .filter(|(_, target)| {
            !is_elsewhere(target) && !tree.has(&here.join(without_anchor(target)))
        })
        .map(|(line, target)| {
            Finding::at(
                "links-lead-somewhere",
                &file.path,
                line,
                format!("{target} is not in the tree"),
            )
        })
        .collect()
}

/// The targets of inline links, with their lines.
fn targets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(at, line)| {
        line.match_indices("](").filter_map(move |(start, _)| {
            let target = line[start + 2..].split_once(')')?.0;
            Some((at + 1, target.split_whitespace().next().unwrap_or("")))
        })
    })
}

fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:") || target.starts_with('#')
}

fn without_anchor(target: &str) -> &str {
    target.split('#').next().unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_found() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join("docs/there.md"), "").unwrap();
        let tree = Tree {
            root: root.path().into(),
            files: Vec::new(),
        };
        for (text, findings) in [
            ("see [a](there.md) and [b](there.md#part \"title\")", 0),
            ("see [a](https://kernel.org/x) and [b](#part) and a[0](", 0),
            ("see\n[a](gone.md) and [b](../docs/gone.md#part)", 2),
        ] {
            let found = relative(&SourceFile::new("docs/a.md", text), &tree);
            assert_eq!(found.len(), findings, "{text}: {found:?}");
        }
    }
}
