// SPDX-License-Identifier: Apache-2.0
//! Templates: booted guests on disk that every sandbox is restored from.
//!
//! ```text
//! <templates>/                     0700, root
//!     <16 hex digits of its key>/  a published template, complete and never written to again
//!         manifest.json  state.bin  memory.bin  working_set.bin
//!     .lock.<digits>               held by whoever builds it; says why the last build failed
//!     .new.<digits>/               being built, or left by a builder that was killed
//!     .gone.<digits>.<pid>.<n>/    being removed
//! ```
//!
//! A template appears by a rename, so what is under its own name is whole. Its *key* is a digest over
//! everything that decides what is in it, so another kernel, shape or version has another name and
//! nothing is ever updated. Whoever needs one that is missing builds it, under a lock that the kernel
//! releases with its holder. Whoever runs a clone holds a shared lock on the template's directory for as
//! long as the clone lives, so that nothing in use is collected.
//!
//! | file | what |
//! |---|---|
//! | `key` | from what is wanted to a name |
//! | `wanted` | what a start looks for |
//! | `open` | the cheap checks, on every start |
//! | `store` | open, or wait, or build: the one decision |
//! | `lock` | who builds |
//! | `publish` | from a directory of fresh files to a template |
//! | `digest` | what files are made of, holes left out |
//! | `build` | boot, save, try: the files of a template from a machine |
//! | `collect` | removing by age and size |
//! | `list` | what operators see |
//!
//! [`crate::Sandbox`] and `cube template` use it; nothing here knows containerd.

mod build;
mod collect;
mod digest;
mod key;
mod list;
mod lock;
mod open;
mod publish;
mod store;
#[cfg(test)]
mod tests;
mod wanted;

pub use build::{BuildError, Built, build};
pub use collect::{Collected, Limits};
pub use list::{Inspected, Listed, TemplateState, Verified};
pub use open::Unfit;
pub use store::{Store, StoreError, Unavailable};
pub use wanted::WantedError;

pub(crate) use build::make;
pub(crate) use digest::next_data;
pub(crate) use open::{Found, Lease, SavedDisk, Template, TemplateFiles};
pub(crate) use wanted::Wanted;

/// Names of the files of a template.
pub(crate) const STATE: &str = "state.bin";
pub(crate) const MEMORY: &str = "memory.bin";
pub(crate) const WORKING_SET: &str = "working_set.bin";
const MANIFEST: &str = "manifest.json";
