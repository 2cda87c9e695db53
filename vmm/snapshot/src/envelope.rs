// SPDX-License-Identifier: Apache-2.0
//! The form of a binary file: what it is, of which version, how long, and whether it is whole.
//!
//! ```text
//!  0        8         12        16             24        28
//!  | "CUBESNAP" | kind  | version | payload bytes | crc32 | payload (postcard) ...
//! ```
//! Numbers are little-endian. The checksum covers everything before it and the payload. It finds what
//! a disk or a hand has changed; it is no signature. A reader knows exactly one version: files live as
//! long as a template and are made anew, so there is nothing to migrate.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

const MAGIC: [u8; 8] = *b"CUBESNAP";
/// What the checksum covers of the header.
const CHECKED: usize = 24;
const HEADER: usize = 28;

/// A kind of file, and the limits of its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it is, for messages.
    pub name: &'static str,
    /// Four letters that no other kind has.
    pub tag: [u8; 4],
    /// The version that is written and read.
    pub version: u32,
    /// The largest payload in bytes: what a reader allocates at the most.
    pub max_bytes: u32,
}

/// Why a file could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The value has no binary form.
    #[error("the {kind} could not be encoded")]
    Encode {
        /// What it is.
        kind: &'static str,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// The value is larger than its reader allows.
    #[error("the {kind} has {bytes} bytes, at most {max} are read again")]
    TooLarge {
        /// What it is.
        kind: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: u32,
    },
    /// The file.
    #[error("the {kind} could not be written")]
    Write {
        /// What it is.
        kind: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a file was refused.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be read, or ends early.
    #[error("the {kind} could not be read to its end")]
    Read {
        /// What it should be.
        kind: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("the file is no {kind}")]
    Foreign {
        /// What it should be.
        kind: &'static str,
    },
    /// It was written by another version.
    #[error("the {kind} has version {found}, this program reads {expected}")]
    Version {
        /// What it is.
        kind: &'static str,
        /// Its version.
        found: u32,
        /// The one that can be read.
        expected: u32,
    },
    /// It says that it is larger than it can be.
    #[error("the {kind} says that it has {bytes} bytes, at most {max} are possible")]
    TooLarge {
        /// What it is.
        kind: &'static str,
        /// What it says.
        bytes: u64,
        /// The limit.
        max: u32,
    },
    /// It is longer than it says.
    #[error("the {kind} goes on behind its end")]
    Trailing {
        /// What it is.
        kind: &'static str,
    },
    /// It is not what was written.
    #[error(
        "the {kind} has been altered: its checksum is {found:#010x} instead of {expected:#010x}"
    )]
    Altered {
        /// What it is.
        kind: &'static str,
        /// What was computed.
        found: u32,
        /// What it says.
        expected: u32,
    },
    /// Whole, and still not understood: a bug in whoever wrote it.
    #[error("the {kind} could not be decoded")]
    Decode {
        /// What it is.
        kind: &'static str,
        /// Why.
        #[source]
        source: postcard::Error,
    },
}

/// Writes `value` as a file of this kind.
pub fn write<T: Serialize>(out: &mut impl Write, kind: Kind, value: &T) -> Result<(), WriteError> {
    let Kind { name, .. } = kind;
    let payload =
        postcard::to_stdvec(value).map_err(|source| WriteError::Encode { kind: name, source })?;
    let length = match u32::try_from(payload.len()) {
        Ok(length) if length <= kind.max_bytes => length,
        _ => {
            return Err(WriteError::TooLarge {
                kind: name,
                bytes: payload.len(),
                max: kind.max_bytes,
            });
        }
    };
    let mut header = Vec::with_capacity(HEADER);
    header.extend(MAGIC);
    header.extend(kind.tag);
    header.extend(kind.version.to_le_bytes());
    header.extend(u64::from(length).to_le_bytes());
    header.extend(checksum(&header, &payload).to_le_bytes());
    out.write_all(&header)
        .and_then(|()| out.write_all(&payload))
        .and_then(|()| out.flush())
        .map_err(|source| WriteError::Write { kind: name, source })
}

/// Reads a file of this kind from its beginning to its end.
pub fn read<T: DeserializeOwned>(input: &mut impl Read, kind: Kind) -> Result<T, ReadError> {
    let name = kind.name;
    let failed = |source| ReadError::Read { kind: name, source };
    let mut header = [0; HEADER];
    input.read_exact(&mut header).map_err(failed)?;
    let (checked, crc) = header.split_at(CHECKED);
    let expected = u32::from_le_bytes(array(crc, 0));
    if array::<8>(checked, 0) != MAGIC || array::<4>(checked, 8) != kind.tag {
        return Err(ReadError::Foreign { kind: name });
    }
    let found = u32::from_le_bytes(array(checked, 12));
    if found != kind.version {
        return Err(ReadError::Version {
            kind: name,
            found,
            expected: kind.version,
        });
    }
    let bytes = u64::from_le_bytes(array(checked, 16));
    let length = match usize::try_from(bytes) {
        Ok(length) if bytes <= u64::from(kind.max_bytes) => length,
        _ => {
            return Err(ReadError::TooLarge {
                kind: name,
                bytes,
                max: kind.max_bytes,
            });
        }
    };
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).map_err(failed)?;
    if input.read(&mut [0]).map_err(failed)? != 0 {
        return Err(ReadError::Trailing { kind: name });
    }
    let found = checksum(checked, &payload);
    if found != expected {
        return Err(ReadError::Altered {
            kind: name,
            found,
            expected,
        });
    }
    postcard::from_bytes(&payload).map_err(|source| ReadError::Decode { kind: name, source })
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}

/// `N` bytes at `from`; zeros past the end, which the callers never reach.
fn array<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    let mut array = [0; N];
    for (to, byte) in array.iter_mut().zip(bytes.iter().skip(from)) {
        *to = *byte;
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: Kind = Kind {
        name: "test file",
        tag: *b"test",
        version: 7,
        max_bytes: 1000,
    };

    fn written(value: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        write(&mut file, KIND, &value).unwrap();
        file
    }

    fn refused(file: &[u8]) -> String {
        read::<Vec<u8>>(&mut &*file, KIND).unwrap_err().to_string()
    }

    #[test]
    fn the_form_is_frozen() {
        let file = written(b"hi");
        let (header, rest) = file.split_at(CHECKED);
        assert_eq!(header, b"CUBESNAPtest\x07\0\0\0\x03\0\0\0\0\0\0\0");
        // The checksum of what is before it and of the payload, which is its length and itself.
        let crc = crc32fast::hash(&[header, b"\x02hi"].concat());
        assert_eq!(rest, [&crc.to_le_bytes()[..], b"\x02hi"].concat());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let file = written(b"hi");
        let with = |at: usize, byte: u8| {
            let mut file = file.clone();
            file[at] = byte;
            file
        };
        assert_eq!(refused(&with(0, b'X')), "the file is no test file");
        assert_eq!(refused(&with(8, b'X')), "the file is no test file");
        assert_eq!(
            refused(&with(12, 8)),
            "the test file has version 8, this program reads 7"
        );
        assert_eq!(
            refused(&with(23, 1)),
            format!(
                "the test file says that it has {} bytes, at most 1000 are possible",
                3u64 | 1 << 56
            )
        );
        assert!(refused(&with(30, b'j')).starts_with("the test file has been altered"));
        let longer = [file.clone(), vec![0]].concat();
        assert_eq!(refused(&longer), "the test file goes on behind its end");
        assert_eq!(refused(b""), "the test file could not be read to its end");
    }

    #[test]
    fn more_than_is_read_again_is_not_written() {
        let error = write(&mut Vec::new(), KIND, &vec![0u8; 1000]).unwrap_err();
        assert!(matches!(error, WriteError::TooLarge { bytes: 1002, .. }));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(value in proptest::collection::vec(any::<u8>(), 0..900)) {
            let file = written(&value);
            prop_assert_eq!(read::<Vec<u8>>(&mut &*file, KIND).unwrap(), value);
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..40, bit in 0u8..8) {
            let mut file = written(b"twelve bytes");
            let at = at % file.len();
            file[at] ^= 1 << bit;
            prop_assert!(read::<Vec<u8>>(&mut &*file, KIND).is_err());
        }

        #[test]
        fn a_truncated_file_is_noticed(cut in 1usize..40) {
            let file = written(b"twelve bytes");
            let cut = cut.min(file.len());
            prop_assert!(read::<Vec<u8>>(&mut &file[..file.len() - cut], KIND).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read::<Vec<u8>>(&mut &*bytes, KIND).is_err());
        }
    }
}
