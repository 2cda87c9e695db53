// SPDX-License-Identifier: Apache-2.0
//! One process that runs one microVM.
//!
//! The binary `cube-vmm` is this library behind a small `main`. The runtime links the library
//! too, for six modules: [`config`] and [`control`] to ask, [`tap`] to make wires, [`exit`] to understand
//! the end, [`probe`] to judge the host, and [`fingerprint`] to recognise it. Start reading in `service` (the main thread) and `restore`.
//!
//! ```text
//!  runtime ── control socket ──► service ── owns ──► machine
//!                                   ▲                  │ vCPU threads: KVM_RUN, exits -> bus -> registers
//!                                   └──── ending ◄─────┤ device thread: vsock, entropy, empty slots
//!                                                      └ disk and net threads: one per attached disk or tap
//! ```
//! Deliberately absent: paths (everything arrives as an open file), an API for people, a
//! configuration of devices, an asynchronous runtime, PCI, and `unsafe`.

mod acpi;
mod boot;
mod bus;
pub mod config;
pub mod control;
mod devices;
mod end;
pub mod exit;
pub mod fingerprint;
mod gate;
mod image;
mod io_thread;
mod jail;
mod kernel;
mod layout;
pub mod log;
mod machine;
mod pagemap;
mod params;
mod power;
mod prefault;
mod restore;
mod save;
mod serial;
mod service;
mod state;
pub mod tap;
mod vcpu;

pub use cube_hv::probe;
pub use end::End;
pub use service::serve;
