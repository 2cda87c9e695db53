// SPDX-License-Identifier: Apache-2.0
//! The files of a saved machine: what is in them, how they are checked.
//!
//! ```text
//! manifest.json     what was saved, on what, and from what: the runtime decides by it
//! state.bin         processors, interrupt controllers, devices: an envelope, the VMM's
//! memory.bin        guest memory, sparse, mapped by every clone
//! working_set.bin   which pages a start touches: an envelope, may be missing
//! ```
//! [`manifest`] is the first of them, [`envelope`] the form of the binary ones: magic, version, length,
//! checksum. What is inside the state is the VMM's business. This crate opens nothing by path and knows
//! no KVM; the runtime and the VMM use it.

pub mod envelope;
pub mod manifest;
pub mod working_set;
