// SPDX-License-Identifier: Apache-2.0
//! What a door needs to know about any error of this crate besides its words.
//!
//! Every error that leaves [`crate::Sandbox`] has a `kind()`. A door maps the kind to its own status
//! codes in one exhaustive match and sends the error's chain as the text.

use std::error::Error;

/// The classes of failure a door can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request itself is wrong: a spec, a mount, an argument.
    InvalidArgument,
    /// The named container or process does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Right request, wrong moment: a process that runs, or does not.
    FailedPrecondition,
    /// Something that Cube does not do (yet).
    Unimplemented,
    /// A limit was reached: slots, memory, disk.
    ResourceExhausted,
    /// It took too long.
    DeadlineExceeded,
    /// The machine is gone; nothing more can be asked of it.
    Unavailable,
    /// The host or the guest failed in a way the caller did not cause.
    Internal,
}

/// The whole chain of an error on one line, outermost first.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
