// SPDX-License-Identifier: Apache-2.0
//! KVM and guest memory: the host's only unsafe room.
