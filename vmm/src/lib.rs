// SPDX-License-Identifier: Apache-2.0
//! One process that runs one microVM.
//!
//! The binary `cube-vmm` is this library behind a ten-line `main`. The runtime links the
//! library too, for three modules: [`config`] and [`control`] to ask, [`exit`] to
//! understand the end.

pub mod config;
pub mod control;
pub mod exit;

pub use cube_hv::probe;
