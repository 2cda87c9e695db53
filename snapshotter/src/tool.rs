// SPDX-License-Identifier: Apache-2.0
//! Runs the few system programs that set the store up: mkfs, debugfs, losetup. Never on the way of
//! a request.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, ExitStatus, Stdio};

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
}

/// A daemon's PATH often lacks the directories of administrators' programs.
const ADMIN_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin";

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started.
    #[error("could not run {name}; it is in the package {package}")]
    Start {
        /// The program.
        name: &'static str,
        /// Where it comes from.
        package: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It reported a failure.
    #[error("{name} failed with {status}: {output}")]
    Failed {
        /// The program.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
}

impl Tool {
    /// Runs the program to its end and returns what it printed.
    pub(crate) fn run<I, S>(self, arguments: I) -> Result<String, ToolError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let path = match std::env::var("PATH") {
            Ok(own) => format!("{own}:{ADMIN_PATH}"),
            Err(_) => ADMIN_PATH.into(),
        };
        let Self { name, package } = self;
        let output = Command::new(name)
            .args(arguments)
            .env("PATH", path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ToolError::Start {
                name,
                package,
                source,
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(ToolError::Failed {
            name,
            status: output.status,
            output: said.trim().replace('\n', "; "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_names_its_package() {
        let tool = Tool {
            name: "cube-no-such-program",
            package: "cube-no-such-package",
        };
        let error = tool.run(["x"]).unwrap_err().to_string();
        assert!(error.contains("cube-no-such-package"), "{error}");
    }

    #[test]
    fn failure_carries_what_the_program_said() {
        let tool = Tool {
            name: "sh",
            package: "dash",
        };
        let error = tool.run(["-c", "echo broken >&2; exit 3"]).unwrap_err();
        assert!(
            error.to_string().ends_with("exit status: 3: broken"),
            "{error}"
        );
        assert_eq!(tool.run(["-c", "echo fine"]).unwrap(), "fine");
    }
}
