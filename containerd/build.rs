// SPDX-License-Identifier: Apache-2.0
//! Generates the client for the part of containerd's gRPC API that is in `proto/`. Needs `protoc`.

fn main() -> std::io::Result<()> {
    let files = [
        "types",
        "version",
        "leases",
        "images",
        "content",
        "diff",
        "snapshots",
        "containers",
        "tasks",
    ]
    .map(|name| format!("proto/{name}.proto"));
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("wire.rs")
        .compile_protos(&files, &["proto".to_owned()])
}
