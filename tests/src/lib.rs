// SPDX-License-Identifier: Apache-2.0
//! Tests that need more than one crate, and what they are made of.
//!
//! [`tidy`] judges the tree itself; everything else is for end-to-end tests. Nothing here is part of
//! the product and no other crate uses it.

pub mod tidy;
