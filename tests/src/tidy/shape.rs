// SPDX-License-Identifier: Apache-2.0
//! Sizes: files that are too long fail, the aims are printed (`small-rooms`, `one-screen-functions`).

use std::fmt::Write as _;

use super::Finding;
use super::code::{Function, functions, production};
use super::tree::SourceFile;

/// Past this a file has more than one subject. Inline tests are not counted.
const LONGEST_FILE: usize = 600;
const AIM_MEDIAN_FILE: usize = 120;
const AIM_P90_FILE: usize = 400;
const AIM_FUNCTION: usize = 70;

/// A file stays below the border.
pub fn border(file: &SourceFile) -> Vec<Finding> {
    if !file.is_rust() && !file.is_script() {
        return Vec::new();
    }
    let lines = production(&file.text).lines().count();
    if lines <= LONGEST_FILE {
        return Vec::new();
    }
    let why = format!("{lines} lines of at most {LONGEST_FILE}: split it by subject");
    vec![Finding::about("small-rooms", &file.path, why)]
}

/// The aims beside what is: nothing of this fails.
pub fn report<'a>(files: impl Iterator<Item = &'a SourceFile>) -> String {
    let mut lengths = Vec::new();
    let mut bodies: Vec<(String, Function)> = Vec::new();
    for file in files {
        let code = production(&file.text);
        lengths.push(code.lines().count());
        bodies.extend(
            functions(code)
                .into_iter()
                .map(|function| (file.path.clone(), function)),
        );
    }
    lengths.sort_unstable();
    let (median, p90) = (percentile(&lengths, 50), percentile(&lengths, 90));
    let mut text = format!(
        "small-rooms: {} Rust files, median {median} lines (aim {AIM_MEDIAN_FILE}), p90 {p90} (aim {AIM_P90_FILE})",
        lengths.len()
    );
    bodies.retain(|(_, function)| function.lines > AIM_FUNCTION);
    bodies.sort_by_key(|(_, function)| std::cmp::Reverse(function.lines));
    for (path, function) in bodies {
        let Function { name, line, lines } = function;
        write!(
            text,
            "\none-screen-functions: {path}:{line} {name} has {lines} lines (aim {AIM_FUNCTION})"
        )
        .expect("a string takes everything");
    }
    text
}

fn percentile(sorted: &[usize], percent: usize) -> usize {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_past_the_border_is_found() {
        let long = "x\n".repeat(LONGEST_FILE + 1);
        assert_eq!(border(&SourceFile::new("a.rs", &long)).len(), 1);
        assert_eq!(border(&SourceFile::new("a.rs", &long[2..])).len(), 0);
        assert_eq!(border(&SourceFile::new("a.md", &long)).len(), 0);
    }

    #[test]
    fn inline_tests_do_not_count() {
        let text = format!(
            "x\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "y\n".repeat(LONGEST_FILE)
        );
        assert_eq!(border(&SourceFile::new("a.rs", &text)).len(), 0);
    }

    #[test]
    fn the_report_names_long_functions_and_percentiles() {
        let long = format!("fn long() {{\n{}}}\n", "x();\n".repeat(AIM_FUNCTION));
        let files = [
            SourceFile::new("a.rs", &long),
            SourceFile::new("b.rs", "fn short() {}\n"),
        ];
        let text = report(files.iter());
        assert!(text.contains("2 Rust files, median 1 lines"), "{text}");
        assert!(text.contains("a.rs:1 long has 72 lines"), "{text}");
        assert!(!text.contains("short"), "{text}");
    }
}
