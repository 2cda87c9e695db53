// SPDX-License-Identifier: Apache-2.0
//! virtio devices over MMIO, without a hypervisor.
