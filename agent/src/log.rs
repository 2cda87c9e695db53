// SPDX-License-Identifier: Apache-2.0
//! The agent's log: one line per event on stderr, which is the serial console in a guest.
//!
//! Only warnings and errors, because every byte on a serial console costs the guest two exits; `CUBE_LOG=info`
//! in the environment, which in a guest is the kernel's command line, shows more. Not a general subscriber:
//! spans are ignored, and nothing that a container controls is logged without a bound.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest line. The serial port is slow, and the host keeps a bounded file.
const MAX_LINE: usize = 1024;

/// Sends every later event of this process to stderr.
pub fn start() {
    let level = match std::env::var("CUBE_LOG").as_deref() {
        Ok("info") => Level::INFO,
        _ => Level::WARN,
    };
    if tracing::subscriber::set_global_default(Console { level }).is_err() {
        tracing::warn!("the log was started twice");
    }
}

struct Console {
    level: Level,
}

impl Subscriber for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("cube-agent {}", event.metadata().level()));
        event.record(&mut line);
        let mut text = line.0;
        text.truncate(text.floor_char_boundary(MAX_LINE));
        text.push('\n');
        // A console that cannot be written to leaves nobody to tell.
        drop(std::io::stderr().write_all(text.as_bytes()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
    }
}
