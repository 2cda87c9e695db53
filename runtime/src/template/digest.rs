// SPDX-License-Identifier: Apache-2.0
//! What files are made of.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// Read size.
const CHUNK: usize = 256 << 10;

/// What a hole is made of: guest pages.
const BLOCK: usize = 4096;

/// The SHA-256 of a file's bytes, as `sha256sum` prints it.
pub(crate) fn of_file(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    each_chunk(file, 0, u64::MAX, |_, bytes| hash.update(bytes))?;
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of every block that is not zero, each behind its number, and of the file's length. It is
/// the same wherever a file system puts holes, and costs as much as there is data.
pub(crate) fn of_sparse(file: &File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let mut hash = Sha256::new();
    let mut at = 0;
    while let Some((start, end)) = next_data(file, at, length)? {
        each_chunk(file, start, end, |offset, bytes| {
            for (block, number) in bytes.chunks(BLOCK).zip(offset / BLOCK as u64..) {
                if block.iter().any(|byte| *byte != 0) {
                    hash.update(number.to_le_bytes());
                    hash.update(block);
                }
            }
        })?;
        at = end;
    }
    hash.update(length.to_le_bytes());
    Ok(hex(&hash.finalize()))
}

/// The next stretch of data at or behind `at`, in whole blocks: where it starts and ends.
pub(crate) fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    let block = BLOCK as u64;
    // Never before `at`: a block that two stretches share is read once.
    let start = (start - start % block).max(at);
    Ok(Some((start, end.next_multiple_of(block).min(length))))
}

fn each_chunk(
    file: &File,
    mut at: u64,
    end: u64,
    mut take: impl FnMut(u64, &[u8]),
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while at < end {
        let want = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
        let mut have = 0;
        // Filled up, because blocks must not be cut by a short read.
        while have < want {
            let free = chunk.get_mut(have..want).unwrap_or_default();
            match file.read_at(free, at + have as u64) {
                Ok(0) => break,
                Ok(len) => have += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        take(at, chunk.get(..have).unwrap_or_default());
        if have < want {
            break;
        }
        at += have as u64;
    }
    Ok(())
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(parts: &[(u64, &[u8])], length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn a_files_digest_is_the_usual_one() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let expect = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_file(&file).unwrap(), expect);
    }

    #[test]
    fn written_zeros_and_holes_are_the_same() {
        let block = [7; BLOCK];
        let far = 64 << 20;
        let sparse = file(&[(far, &block)], 128 << 20);
        let dense = file(&[(0, &[0; 1 << 20]), (far, &block)], 128 << 20);
        assert_eq!(of_sparse(&sparse).unwrap(), of_sparse(&dense).unwrap());
    }

    #[test]
    fn place_content_and_length_all_count() {
        let digest = |parts: &[(u64, &[u8])], length| of_sparse(&file(parts, length)).unwrap();
        let base = digest(&[(8192, &[1])], 1 << 20);
        assert_ne!(base, digest(&[(4096, &[1])], 1 << 20));
        assert_ne!(base, digest(&[(8192, &[2])], 1 << 20));
        assert_ne!(base, digest(&[(8193, &[1])], 1 << 20));
        assert_ne!(base, digest(&[(8192, &[1])], 2 << 20));
        assert_ne!(base, digest(&[(8192, &[1]), (1 << 19, &[1])], 1 << 20));
    }

    #[test]
    fn an_odd_end_counts() {
        let digest = |last: u8| of_sparse(&file(&[(CHUNK as u64 + 4, &[last])], CHUNK as u64 + 5));
        assert_ne!(digest(1).unwrap(), digest(2).unwrap());
    }
}
