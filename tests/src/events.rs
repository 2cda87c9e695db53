// SPDX-License-Identifier: Apache-2.0
//! containerd's events as `ctr events` prints them.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::bed::Bed;
use crate::bounded::{STEP_LIMIT, eventually};
use crate::ctr::NAMESPACE;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `/tasks/start`.
    pub topic: String,
    /// The fields that the topic has.
    pub fields: Value,
}

/// A subscription to everything that happens on a bed.
#[derive(Debug)]
pub struct Events {
    child: Child,
    file: PathBuf,
}

impl Events {
    /// Subscribes, and waits until the subscription is in force.
    #[track_caller]
    pub fn subscribe(bed: &Bed) -> Self {
        let file = bed.scratch("events.log");
        let output = File::create(&file).expect("the bed has a directory");
        let child = Command::new(bed.series.programs().join("ctr"))
            .arg("--address")
            .arg(bed.address())
            .args(["--namespace", NAMESPACE, "events"])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .expect("ctr can be run");
        let events = Self { child, file };
        let mut round = 0;
        eventually("the first event", STEP_LIMIT, || {
            round += 1;
            let label = format!("round={round}");
            bed.ctr(&["namespaces", "label", NAMESPACE, &label])
                .run()
                .succeeded();
            !events.all().is_empty()
        });
        events
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().filter_map(parse).collect()
    }

    /// The events of one container's task so far, in their order.
    pub fn of_task(&self, id: &str) -> Vec<Event> {
        let is_of = |event: &Event| {
            event.topic.starts_with("/tasks/") && event.fields["container_id"] == id
        };
        self.all().into_iter().filter(is_of).collect()
    }

    /// Waits for an event of a task and gives all of its events until then.
    #[track_caller]
    pub fn await_topic(&self, id: &str, topic: &str) -> Vec<Event> {
        let mut seen = Vec::new();
        eventually(&format!("{topic} of {id}"), STEP_LIMIT, || {
            seen = self.of_task(id);
            seen.iter().any(|event| event.topic == topic)
        });
        seen
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A line is: time in a changing number of words, namespace, topic, fields as JSON.
fn parse(line: &str) -> Option<Event> {
    let (before, fields) = line.split_once('{')?;
    let topic = before.split_whitespace().next_back()?;
    Some(Event {
        topic: topic.into(),
        fields: serde_json::from_str(&format!("{{{fields}")).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line =
            r#"2026-01-02 03:04:05.6 +0000 UTC cube-e2e /tasks/start {"container_id":"a","pid":7}"#;
        let event = parse(line).unwrap();
        assert_eq!(event.topic, "/tasks/start");
        assert_eq!(event.fields["pid"], 7);
        assert!(parse("nothing of the kind").is_none());
    }
}
