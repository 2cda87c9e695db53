// SPDX-License-Identifier: Apache-2.0
//! containerd snapshotter: one reflinked ext4 image a snapshot.
