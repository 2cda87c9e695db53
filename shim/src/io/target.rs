// SPDX-License-Identifier: Apache-2.0
//! What containerd may name as the target of a stream.

use std::path::PathBuf;

use super::StdioError;

/// Where output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Null,
    /// A fifo, or a file that exists.
    Path(PathBuf),
    /// A log file, made with its directories where missing.
    File(PathBuf),
    /// A program that reads both streams.
    Logger(LoggerSpec),
}

/// How a logger is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggerSpec {
    /// Absolute path.
    pub program: PathBuf,
    /// Its arguments: each key and value of the URI's query, in order.
    pub args: Vec<String>,
    /// How it says that it reads.
    pub ready: Ready,
}

/// See [`LoggerSpec::ready`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It closes descriptor 5, or writes to it (`binary://`).
    CloseOrByte,
    /// It writes a byte to descriptor 5; closing it alone is a failure (`binary-v2://`).
    Byte,
}

impl Target {
    /// Reads a path or a URI.
    pub fn parse(text: &str) -> Result<Self, StdioError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(match text {
                "" => Target::Null,
                path => Target::Path(path.into()),
            });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path).filter(|path| path.starts_with('/'));
        let error = || StdioError::Scheme {
            uri: text.to_owned(),
        };
        let path = path.ok_or_else(error)?;
        let ready = match scheme {
            "file" => return Ok(Target::File(path.into())),
            "binary" => Ready::CloseOrByte,
            "binary-v2" => Ready::Byte,
            _ => return Err(error()),
        };
        Ok(Target::Logger(LoggerSpec {
            program: path.into(),
            args: arguments(query).ok_or_else(error)?,
            ready,
        }))
    }
}

/// Go's `url.Query` as containerd's own shim turns it into arguments: key, value, key, value.
fn arguments(query: &str) -> Option<Vec<String>> {
    let mut args = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        for part in [key, value] {
            args.push(decode(&part.replace('+', " "))?);
        }
    }
    Some(args)
}

/// Percent-decoding (RFC 3986, section 2.1); none if malformed.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_recognised() {
        let check = |text: &str, expect: Target| {
            assert_eq!(Target::parse(text).unwrap(), expect, "{text}");
        };
        check("", Target::Null);
        check("/run/fifo", Target::Path("/run/fifo".into()));
        check("file:///var/log/a%20b", Target::File("/var/log/a b".into()));
        check(
            "binary:///bin/log?_LOG=%2Fvar&b+c",
            Target::Logger(LoggerSpec {
                program: "/bin/log".into(),
                args: ["_LOG", "/var", "b c", ""].map(str::to_owned).into(),
                ready: Ready::CloseOrByte,
            }),
        );
        check(
            "binary-v2:///bin/log",
            Target::Logger(LoggerSpec {
                program: "/bin/log".into(),
                args: vec![],
                ready: Ready::Byte,
            }),
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "npipe:///x",
            "file://host/x",
            "file:///a%zz",
            "binary://log",
            "://",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
