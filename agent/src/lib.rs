// SPDX-License-Identifier: Apache-2.0
//! PID 1 of the guest: sets up containers and runs their processes.
