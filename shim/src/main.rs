// SPDX-License-Identifier: Apache-2.0
//! containerd's door: task service v2 and v3 over one sandbox.

fn main() {}
