// SPDX-License-Identifier: Apache-2.0
//! Generates the messages and the ttrpc services from the files of `proto/`.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    ttrpc_codegen::Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto", "proto/plane.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    // The generated mod.rs opens with an inner attribute, which an included file may not have.
    std::fs::write(
        std::path::Path::new(&out).join("protocol.rs"),
        "pub mod agent;\npub mod agent_ttrpc;\npub mod plane;\npub mod plane_ttrpc;\n",
    )
}
