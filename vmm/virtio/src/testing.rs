// SPDX-License-Identifier: Apache-2.0
//! The driver's side of a device, for tests.
