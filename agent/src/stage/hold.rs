// SPDX-License-Identifier: Apache-2.0
//! The first process of a container that is held.

use crate::sys;

/// Does nothing for ever; the kernel reaps the orphans that are left to it. As the first of its namespace it
/// gets no signal that it does not handle, so that only SIGKILL from outside ends it.
pub fn hold() -> ! {
    sys::ignore_children();
    loop {
        std::thread::park();
    }
}
