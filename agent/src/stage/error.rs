// SPDX-License-Identifier: Apache-2.0
//! Why a process could not be set up. The text reaches whoever asked for the process, so where runc's users
//! know a phrase, it is runc's.

use std::path::PathBuf;

use thiserror::Error;

use crate::cause::Cause;

/// One failed step of a stage.
#[derive(Debug, Error)]
pub enum StageError {
    /// The agent's own pipe is broken, or its plan is.
    #[error("cannot read the plan of the process")]
    Plan(#[source] Cause),
    /// The agent is gone or said something else than "go".
    #[error("the agent did not let the process start")]
    Channel(#[source] Cause),
    /// setns or unshare.
    #[error("cannot enter the {what}")]
    Namespace {
        /// Which.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// One of the spec's mounts.
    #[error("cannot mount {what} on {}", destination.display())]
    Mount {
        /// Kind of file system, or what else.
        what: String,
        /// Where in the container.
        destination: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// Anything done to a path of the container.
    #[error("cannot {action} {} in the container", path.display())]
    Path {
        /// With its verb.
        action: &'static str,
        /// As seen in the container.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// pivot_root and the steps around it.
    #[error("cannot {action} the root file system")]
    Root {
        /// With its verb.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The container's terminal.
    #[error("cannot {action} the terminal")]
    Terminal {
        /// With its verb.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// `linux.sysctl`.
    #[error("cannot set sysctl {key} to {value:?}")]
    Sysctl {
        /// As a path below /proc/sys.
        key: String,
        /// As asked.
        value: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// Host name, limits, users, capabilities and the like.
    #[error("cannot set the {what}")]
    Attribute {
        /// Which.
        what: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// `process.cwd`.
    #[error("chdir to cwd ({cwd:?}) set in config.json failed")]
    Cwd {
        /// As asked.
        cwd: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// `process.args[0]` is not in any directory of PATH.
    #[error("exec: {name:?}: executable file not found in $PATH")]
    NotInPath {
        /// As asked.
        name: String,
    },
    /// `process.args[0]` is a path that cannot be executed.
    #[error("exec: {name:?}")]
    NotExecutable {
        /// As asked.
        name: String,
        /// Why.
        #[source]
        source: ExecutableError,
    },
    /// execve itself.
    #[error("exec {path}")]
    Exec {
        /// The file.
        path: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

/// What is wrong with a file that should be executed.
#[derive(Debug, Error)]
pub enum ExecutableError {
    /// It cannot be looked at.
    #[error("stat {path}")]
    Stat {
        /// As asked.
        path: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// It is one.
    #[error("is a directory")]
    Directory,
    /// The user may not execute it.
    #[error("permission denied")]
    Permission,
}
