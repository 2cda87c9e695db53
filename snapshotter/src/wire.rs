// SPDX-License-Identifier: Apache-2.0
//! Generated from `proto/snapshots.proto`: containerd's snapshots service, server and client.

#![allow(missing_docs, reason = "generated; the proto file has the words")]
#![allow(
    clippy::allow_attributes_without_reason,
    reason = "generated code carries its own attributes"
)]

tonic::include_proto!("containerd.services.snapshots.v1");
