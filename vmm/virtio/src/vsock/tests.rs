// SPDX-License-Identifier: Apache-2.0
//! Tests of the device with sockets of the host and a driver.
