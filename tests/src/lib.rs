// SPDX-License-Identifier: Apache-2.0
//! tests that need more than one crate.
