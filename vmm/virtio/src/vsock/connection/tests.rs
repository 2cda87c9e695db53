// SPDX-License-Identifier: Apache-2.0
//! Tests of one connection against a model of its peer.
