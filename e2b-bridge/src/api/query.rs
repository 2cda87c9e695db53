// SPDX-License-Identifier: Apache-2.0
//! Parameters of requests, and bodies: read with errors in E2B's shape.

use axum::body::Bytes;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// The pairs of `a=b&c=d`, decoded.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// A value by its name; an empty one is none.
pub fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(found, _)| found == name);
    found
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
}

/// A number by its name.
pub fn number(pairs: &[(String, String)], name: &'static str) -> Result<Option<u64>, ApiError> {
    let parse = |text: &str| {
        let why = || ApiError::invalid(name, format!("{text:?} is no number"));
        text.parse().map_err(|_| why())
    };
    value(pairs, name).map(parse).transpose()
}

/// The JSON of a body; an empty body is an empty object.
pub fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let json: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(json).map_err(|error| ApiError::invalid("body", error.to_string()))
}

/// `%41` and `+` of form encoding. What is not UTF-8 becomes a question mark of Unicode.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        rest = match escaped {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                &tail[2..]
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_decoded() {
        let found = pairs("a=1&b=x%3Dy%26z&c&d=a+b");
        let expect = [("a", "1"), ("b", "x=y&z"), ("c", ""), ("d", "a b")];
        let expect = expect.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expect);
        assert_eq!(value(&found, "b"), Some("x=y&z"));
        assert_eq!(value(&found, "c"), None);
        assert_eq!(number(&found, "a").unwrap(), Some(1));
        assert!(number(&found, "d").is_err());
        assert_eq!(number(&found, "e").unwrap(), None);
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
    }

    proptest! {
        #[test]
        fn anything_can_be_decoded(text in ".*") {
            decode(&text);
        }

        #[test]
        fn what_was_encoded_is_found_again(bytes in "\\PC*") {
            let encoded: String = bytes.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode(&encoded), bytes);
        }
    }
}
