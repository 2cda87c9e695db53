// SPDX-License-Identifier: Apache-2.0
//! Namespaces, the interfaces in them, and what ties them to taps.
//!
//! ```text
//! Namespace::run ── on a thread that lives in there ──> scan ──> raise the taps ──> the table ──> LinkWatch
//! ```
//!
//! Nothing here changes an interface of a client: its addresses stay where `docker inspect` and others
//! look for them. What is made (taps, the table) is found by name, so that it can be removed by a process
//! that knows nothing but the namespace.

mod host;
mod namespace;
mod pair;
mod scan;
mod tap;
mod watch;

#[cfg(test)]
pub(crate) mod lab;

pub use host::addresses as host_addresses;
pub use namespace::{Identity, Namespace, NamespaceError};
pub use pair::Pair;
pub use scan::{Address, Found, Interface, MAX_INTERFACES, Neighbour, Route, ScanError, scan};
pub use tap::{TapError, is_inhabited, raise, raise_loopback, tap_name};
pub use watch::{LinkWatch, WatchError};
