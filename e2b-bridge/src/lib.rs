// SPDX-License-Identifier: Apache-2.0
//! An E2B server: unmodified E2B SDKs on one side, containerd and sandboxes' agents on the other.
//!
//! A sandbox is a container and a task of containerd's with the runtime `io.cube.v1`; this program makes,
//! lists and removes them through containerd's API, as any client could. What SDKs do inside of a sandbox
//! (commands, files, ports) goes to its agent through [`cube_runtime`]. It knows nothing of virtual
//! machines, and nothing in an image has to know of it.
//!
//! ```text
//!  SDK ── HTTP ── server ─ route ─┬─ api    control plane ── sandbox ── containerd
//!                                 ├─ envd   port 49983 ──────┐
//!                                 └─ proxy  any other port ──┴─ the sandbox's agent
//! ```
//!
//! Everything about a sandbox that has to outlive this process is in the record of its container
//! ([`sandbox::SandboxRecord`]); keys are a file ([`keys`]). So it may be killed at any moment.

pub mod api;
pub mod config;
pub mod envd;
pub mod error;
pub mod keys;
pub mod moment;
pub mod proxy;
pub mod random;
pub mod route;
pub mod sandbox;
pub mod secret;
pub mod server;
pub mod template;
