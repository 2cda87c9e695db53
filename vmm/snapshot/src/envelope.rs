// SPDX-License-Identifier: Apache-2.0
//! The form of a binary file.
