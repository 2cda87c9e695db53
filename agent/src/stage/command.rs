// SPDX-License-Identifier: Apache-2.0
//! Which file a command means: itself if it has a slash, else the first executable of that name in the
//! directories of the process's own PATH. Errors read as those of runc, which are those of Go's `LookPath`:
//! clients look for these words.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};

use super::error::{ExecutableError, StageError};

/// Finds the file of a command. Call as the user and in the directory of the process.
pub fn find(name: &str, env: &[String]) -> Result<String, StageError> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(source) => Err(StageError::NotExecutable {
                name: name.to_owned(),
                source,
            }),
        };
    }
    env.iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default()
        .split(':')
        // A relative directory would make the command depend on where the process starts.
        .filter(|directory| Path::new(directory).is_absolute())
        .map(|directory| format!("{}/{name}", directory.trim_end_matches('/')))
        .find(|path| executable(path).is_ok())
        .ok_or_else(|| StageError::NotInPath {
            name: name.to_owned(),
        })
}

fn executable(path: &str) -> Result<(), ExecutableError> {
    let status = stat(path).map_err(|errno| ExecutableError::Stat {
        path: path.to_owned(),
        source: errno.into(),
    })?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err(ExecutableError::Directory);
    }
    // The bits too: with CAP_DAC_OVERRIDE access(2) alone would do, but execve needs one of them.
    let any_bit = status.st_mode & 0o111 != 0;
    if any_bit && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok() {
        Ok(())
    } else {
        Err(ExecutableError::Permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::chain;

    fn found(name: &str, path: &str) -> Result<String, String> {
        find(name, &["X=1".to_owned(), format!("PATH={path}")]).map_err(|e| chain(&e))
    }

    #[test]
    fn a_name_is_looked_for_in_path() {
        assert_eq!(found("sh", "/nope:/bin/").unwrap(), "/bin/sh");
        for path in ["", "/nope", "bin", "/etc"] {
            assert_eq!(
                found("sh", path).unwrap_err(),
                "exec: \"sh\": executable file not found in $PATH"
            );
        }
    }

    #[test]
    fn a_path_that_cannot_run_says_why() {
        for (name, text) in [
            (
                "/nope",
                "exec: \"/nope\": stat /nope: no such file or directory",
            ),
            ("/etc", "exec: \"/etc\": is a directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ] {
            assert_eq!(found(name, "").unwrap_err(), text);
        }
        assert_eq!(found("/bin/sh", "").unwrap(), "/bin/sh");
    }
}
