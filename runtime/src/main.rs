// SPDX-License-Identifier: Apache-2.0
//! the waist: one sandbox, its microVM and its processes.

fn main() {}
