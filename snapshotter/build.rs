// SPDX-License-Identifier: Apache-2.0
//! Generates the gRPC types and service from `proto/snapshots.proto`. Needs `protoc`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        // Labels in one order everywhere, so that records and answers are reproducible.
        .btree_map(".")
        .compile_protos(&["proto/snapshots.proto"], &["proto"])
}
