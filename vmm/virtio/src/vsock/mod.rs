// SPDX-License-Identifier: Apache-2.0
//! The socket device (virtio 1.2, section 5.10): host programs connect to ports of the guest
//! through a Unix socket.
