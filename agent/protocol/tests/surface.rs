// SPDX-License-Identifier: Apache-2.0
//! The wire surface is frozen: every call, field, number and type of the files in `proto/` as one line each,
//! compared with `surface.golden`. `UPDATE_GOLDEN=1` rewrites it, and the difference is what a review sees.

use std::path::Path;

use cube_protocol::v1::{agent, plane};
use protobuf::descriptor::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};

#[test]
fn the_surface_equals_the_golden_file() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/surface.golden");
    let surface = surface();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &surface).unwrap();
    }
    let frozen = std::fs::read_to_string(&golden).unwrap();
    assert_eq!(
        surface, frozen,
        "the protocol changed: see the crate's documentation, then run with UPDATE_GOLDEN=1"
    );
}

fn surface() -> String {
    let mut lines = vec![
        format!("version {}", cube_protocol::PROTOCOL_VERSION),
        format!("control port {}", cube_protocol::CONTROL_PORT),
        format!("stream port {}", cube_protocol::STREAM_PORT),
        format!("plane port {}", cube_protocol::PLANE_PORT),
        format!("dns port {}", cube_protocol::DNS_PORT),
    ];
    push_file(&mut lines, agent::file_descriptor().proto());
    push_file(&mut lines, plane::file_descriptor().proto());
    lines.join("\n") + "\n"
}

fn push_file(lines: &mut Vec<String>, file: &FileDescriptorProto) {
    for service in &file.service {
        for method in &service.method {
            lines.push(format!(
                "{}.{}.{}({}) {}",
                file.package(),
                service.name(),
                method.name(),
                method.input_type(),
                method.output_type(),
            ));
        }
    }
    for message in &file.message_type {
        push_message(lines, message);
    }
    for kind in &file.enum_type {
        push_enum(lines, kind);
    }
}

fn push_enum(lines: &mut Vec<String>, kind: &EnumDescriptorProto) {
    lines.push(kind.name().to_owned());
    for value in &kind.value {
        lines.push(format!(
            "{}.{} = {}",
            kind.name(),
            value.name(),
            value.number()
        ));
    }
}

fn push_message(lines: &mut Vec<String>, message: &DescriptorProto) {
    lines.push(message.name().to_owned());
    for field in &message.field {
        lines.push(format!(
            "{}.{} = {} {}",
            message.name(),
            field.name(),
            field.number(),
            type_of(field),
        ));
    }
    for nested in &message.nested_type {
        push_message(lines, nested);
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    format!(
        "{:?} {:?} {}",
        field.label(),
        field.type_(),
        field.type_name()
    )
    .to_lowercase()
    .trim_end()
    .to_owned()
}
