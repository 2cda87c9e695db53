// SPDX-License-Identifier: Apache-2.0
//! Text to filter: a scanner over characters, one function for each rule of the grammar.

use regex_lite::RegexBuilder;

use super::{Field, Filter, Selector, Test};

/// Longest filter. containerd's own are a few hundred bytes: a key and some labels.
const MAX_BYTES: usize = 16 << 10;
/// Bound of a compiled regular expression, so that `x{9999}{9999}` is an error and not a gigabyte.
const REGEX_MAX_BYTES: usize = 1 << 20;

/// Why a filter was refused.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It does not follow the grammar.
    #[error("filter {filter:?} is wrong at byte {at}: {expected}")]
    Syntax {
        /// The whole filter.
        filter: String,
        /// Where it went wrong.
        at: usize,
        /// What would have been right.
        expected: &'static str,
    },
    /// The regular expression after `~=` is none.
    #[error("filter {filter:?} has a wrong regular expression")]
    Regex {
        /// The whole filter.
        filter: String,
        /// Why it failed.
        #[source]
        source: regex_lite::Error,
    },
    /// It is longer than any sensible filter.
    #[error("a filter of {length} bytes is longer than {MAX_BYTES}")]
    TooLong {
        /// Its length.
        length: usize,
    },
}

/// Parses one filter.
pub(super) fn filter(text: &str) -> Result<Filter, FilterError> {
    if text.len() > MAX_BYTES {
        let length = text.len();
        return Err(FilterError::TooLong { length });
    }
    let mut scanner = Scanner { text, at: 0 };
    let mut selectors = Vec::new();
    if !text.is_empty() {
        selectors.push(scanner.selector()?);
        while scanner.take(',') {
            selectors.push(scanner.selector()?);
        }
        if scanner.peek().is_some() {
            return Err(scanner.expected("a comma or the end"));
        }
    }
    Ok(Filter(selectors))
}

/// Where in the text we are; `at` is always on a character's first byte.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn selector(&mut self) -> Result<Selector, FilterError> {
        let field = Field::from_path(&self.path()?);
        let test = match self.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { field, test })
    }

    fn path(&mut self) -> Result<Vec<String>, FilterError> {
        let mut path = vec![self.field()?];
        while self.take('.') {
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, FilterError> {
        self.skip_spaces();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let name = self.run(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        match name.is_empty() {
            true => Err(self.expected("a field name or a quoted one")),
            false => Ok(name),
        }
    }

    fn test(&mut self) -> Result<Test, FilterError> {
        self.skip_spaces();
        let start = self.at;
        let operator = self.run(|c| matches!(c, '=' | '!' | '~' | '@'));
        match operator.as_str() {
            "==" => self.value(false).map(Test::Equal),
            "!=" => self.value(false).map(Test::NotEqual),
            "@=" => self.value(false).map(Test::Contains),
            "~=" => self.regex(),
            _ => {
                self.at = start;
                Err(self.expected("one of the operators ==, !=, ~= and @="))
            }
        }
    }

    fn regex(&mut self) -> Result<Test, FilterError> {
        let pattern = self.value(true)?;
        RegexBuilder::new(&pattern)
            .size_limit(REGEX_MAX_BYTES)
            .build()
            .map(Test::Matches)
            .map_err(|source| FilterError::Regex {
                filter: self.text.into(),
                source,
            })
    }

    fn value(&mut self, regex: bool) -> Result<String, FilterError> {
        self.skip_spaces();
        match self.peek() {
            Some('"') => return self.quoted(),
            Some('/' | '|') if regex => return self.quoted(),
            _ => {}
        }
        let value = self.run(|c| c != ',' && !c.is_whitespace() && !c.is_control());
        match value.is_empty() {
            true => Err(self.expected("a value or a quoted one")),
            false => Ok(value),
        }
    }

    /// A Go string literal, whose quote is the character it begins with.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let quote = self.next();
        let mut value = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(self.expected("the closing quote")),
                end if end == quote => return Ok(value),
                Some('\\') => value.push(self.escape(quote)?),
                Some(other) => value.push(other),
            }
        }
    }

    fn escape(&mut self, quote: Option<char>) -> Result<char, FilterError> {
        let start = self.at;
        let meant = match self.next() {
            Some('a') => Some('\u{7}'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\u{b}'),
            Some('\\') => Some('\\'),
            Some('x') => self.code(2, 16),
            Some('u') => self.code(4, 16),
            Some('U') => self.code(8, 16),
            Some('0'..='7') => {
                self.at = start;
                self.code(3, 8)
            }
            other if other == quote => quote,
            _ => None,
        };
        meant.ok_or_else(|| {
            self.at = start;
            self.expected("an escape such as \\n, \\\" or \\u00e9")
        })
    }

    fn code(&mut self, digits: usize, base: u32) -> Option<char> {
        let mut code = 0_u32;
        for _ in 0..digits {
            let digit = self.next()?.to_digit(base)?;
            code = code.checked_mul(base)?.checked_add(digit)?;
        }
        char::from_u32(code)
    }

    fn run(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&belongs) {
            self.next();
        }
        self.text[start..self.at].to_owned()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += next.map_or(0, char::len_utf8);
        next
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        FilterError::Syntax {
            filter: self.text.into(),
            at: self.at,
            expected,
        }
    }
}
