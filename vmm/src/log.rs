// SPDX-License-Identifier: Apache-2.0
//! The log: one line for each event, on stderr, which the runtime has turned into a file.
//!
//! A whole logging framework would be a tenth of this process. Devices speak through
//! `tracing`; this writes down what they say, without spans, filters or clocks. What a guest
//! can make them say is bounded by them.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Installs the log for the whole process.
pub fn install() {
    // It fails only if there is one already, and then that one is to be used.
    if tracing::subscriber::set_global_default(Lines).is_err() {
        tracing::debug!("there is another log already");
    }
}

struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        line.0.push('\n');
        // One write, so that lines of several threads do not mix. There is nobody to tell that
        // the log is full or gone.
        drop(std::io::stderr().write_all(line.0.as_bytes()));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}
