// SPDX-License-Identifier: Apache-2.0
//! A block *slot* (virtio 1.2, section 5.2): a disk of capacity zero until a file is attached to it.
