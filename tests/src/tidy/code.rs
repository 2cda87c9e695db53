// SPDX-License-Identifier: Apache-2.0
//! Enough of Rust's lexical structure to tell code from comments, strings and inline tests.
//!
//! Not a parser: it knows where braces match and where a function begins, and relies on rustfmt for the rest.

/// The same text with comments, strings and character literals blanked, line by line as before.
pub fn without_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = token_to_blank(rest, out.chars().next_back());
        let taken = length.unwrap_or(first.len_utf8());
        let (token, after) = rest.split_at(taken);
        if length.is_some() {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out
}

/// The length of the comment or literal that `text` opens with, if it does.
fn token_to_blank(text: &str, before: Option<char>) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    let is_in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !is_in_word && let Some(length) = raw_string(text) {
        return Some(length);
    }
    match text.chars().next()? {
        '"' => Some(quoted(text, '"')),
        // A lifetime has no second quote right behind its first character.
        '\'' if text.starts_with("'\\") || text.chars().nth(2) == Some('\'') => {
            Some(quoted(text, '\''))
        }
        _ => None,
    }
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - inside.len();
    Some(
        inside
            .find(&end)
            .map_or(text.len(), |at| start + at + end.len()),
    )
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The text up to an inline test module, which by custom comes last in a file.
pub fn production(text: &str) -> &str {
    let mut from = 0;
    while let Some(found) = text[from..].find("#[cfg(test)]") {
        let at = from + found;
        let after = text[at..].trim_start_matches("#[cfg(test)]").trim_start();
        if after.starts_with("mod ") && !after.lines().next().unwrap_or("").ends_with(';') {
            return &text[..at];
        }
        from = at + 1;
    }
    text
}

/// A function: where it starts and how many lines it has, from `fn` to its closing brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, counted from one.
    pub line: usize,
    /// How long it is.
    pub lines: usize,
}

/// All functions with a body, nested ones too.
pub fn functions(text: &str) -> Vec<Function> {
    let code = without_words(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_')
        {
            continue;
        }
        let name: String = code[at + 3..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if let (false, Some(end)) = (name.is_empty(), body_end(&code[at..])) {
            let line = 1 + code[..at].matches('\n').count();
            let lines = 1 + code[at..at + end].matches('\n').count();
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// Where the body that follows ends; nothing if a `;` comes first, as in a trait.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0_u32, 0_u32);
    for (at, c) in code.char_indices() {
        match c {
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        assert_eq!(without_words(text), expect, "of {text}");
    }

    #[test]
    fn comments_strings_and_characters_become_blanks() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("x\"y", z)"#, "f(      , z)");
        check("r#\"a\"b\"# c", "         c");
        check(r"m('{', '\'')", "m(   ,     )");
        check("\"a\nb\" c", "  \n   c");
    }

    #[test]
    fn lifetimes_and_names_that_end_in_r_stay() {
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("for\"x\"", "for   ");
    }

    #[test]
    fn production_ends_at_the_inline_tests_only() {
        assert_eq!(production("a\n#[cfg(test)]\nmod tests {\nb}"), "a\n");
        let sibling = "#[cfg(test)]\nmod tests;\nfn after() {}";
        assert_eq!(production(sibling), sibling);
        let item = "#[cfg(test)]\nfn only_for_tests() {}\n";
        assert_eq!(production(item), item);
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "trait T { fn none(&self, x: [u8; 2]); }\nfn one() {}\n\npub fn two(x: [u8; 4])\n{\n  if x { \"}\" }\n}\n";
        let measured: Vec<_> = functions(text)
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        assert_eq!(measured, [("one".into(), 2, 1), ("two".into(), 4, 4)]);
    }
}
