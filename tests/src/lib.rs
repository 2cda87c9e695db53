// SPDX-License-Identifier: Apache-2.0
//! Tests that need more than one crate, and what they are made of.
//!
//! [`tidy`] judges the tree itself. The rest is for end-to-end tests (`tests/e2e`), from the bottom up:
//!
//! | module | what |
//! |---|---|
//! | [`bounded`] | programs that end in time, conditions that come true in time |
//! | [`series`] | the containerd versions, and where their programs are |
//! | [`daemon`] | one daemon: start, log, stop, kill |
//! | [`bed`] | containerd and snapshotter of one series in directories of their own |
//! | [`cni`] | network namespaces, and a network of plug-ins in one |
//! | [`name_server`] | a name server that knows a few names |
//! | [`ctr`] | containerd's command-line client on a bed |
//! | [`leftovers`] | what the host has now that it did not have before |
//! | [`terminal`], [`events`] | a terminal session; the stream of events |
//! | [`suite`] | cases, skips, the search for leftovers after each, the closing line |
//!
//! Helpers panic: a panic is how a test fails. Nothing here is part of the product, and no other crate uses it.

pub mod bed;
pub mod bounded;
pub mod cni;
pub mod ctr;
pub mod daemon;
pub mod events;
pub mod host;
pub mod leftovers;
pub mod name_server;
pub mod series;
pub mod suite;
pub mod terminal;
pub mod tidy;
