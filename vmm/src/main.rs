// SPDX-License-Identifier: Apache-2.0
//! one process that runs one microVM.

fn main() {}
