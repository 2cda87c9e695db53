// SPDX-License-Identifier: Apache-2.0
//! What containerd is told about tasks without asking.

use std::time::SystemTime;

use containerd_shim_protos::events::task as wire;
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::topics::*;
use protobuf::well_known_types::any::Any;

mod publisher;

pub use publisher::Publisher;
pub use wire::TaskCreate;

use crate::task::{Exited, timestamp};

/// Something that happened to a task. The order in which these are published is
/// that of the task's ledger.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The task was created; everything about it is in the message.
    Created(TaskCreate),
    /// Its first process runs.
    Started {
        /// The task.
        task: String,
        /// Its pid.
        pid: u32,
    },
    /// A further process is known.
    ExecAdded {
        /// The task.
        task: String,
        /// The process.
        exec: String,
    },
    /// A further process runs.
    ExecStarted {
        /// The task.
        task: String,
        /// The process.
        exec: String,
        /// Its pid.
        pid: u32,
    },
    /// A process ended.
    Ended {
        /// The task.
        task: String,
        /// The process; empty: the first.
        exec: String,
        /// Its pid.
        pid: u32,
        /// How.
        exited: Exited,
    },
    /// Every process of the task is frozen.
    Paused {
        /// The task.
        task: String,
    },
    /// They go on.
    Resumed {
        /// The task.
        task: String,
    },
    /// A process of the task was killed for want of memory.
    OutOfMemory {
        /// The task.
        task: String,
    },
    /// The task is gone.
    Deleted {
        /// The task.
        task: String,
        /// Its pid.
        pid: u32,
        /// How its first process ended.
        exited: Exited,
    },
}

impl Event {
    /// The topic and the message that containerd knows it by.
    pub fn encode(self) -> Encoded {
        match self {
            Event::Created(message) => Encoded::new(TASK_CREATE_EVENT_TOPIC, &message),
            Event::Started { task, pid } => Encoded::new(
                TASK_START_EVENT_TOPIC,
                &wire::TaskStart {
                    container_id: task,
                    pid,
                    ..Default::default()
                },
            ),
            Event::ExecAdded { task, exec } => Encoded::new(
                TASK_EXEC_ADDED_EVENT_TOPIC,
                &wire::TaskExecAdded {
                    container_id: task,
                    exec_id: exec,
                    ..Default::default()
                },
            ),
            Event::ExecStarted { task, exec, pid } => Encoded::new(
                TASK_EXEC_STARTED_EVENT_TOPIC,
                &wire::TaskExecStarted {
                    container_id: task,
                    exec_id: exec,
                    pid,
                    ..Default::default()
                },
            ),
            Event::Ended {
                task,
                exec,
                pid,
                exited,
            } => Encoded::new(
                TASK_EXIT_EVENT_TOPIC,
                &wire::TaskExit {
                    // Clients tell the first process's exit by the id being the container's.
                    id: if exec.is_empty() { task.clone() } else { exec },
                    container_id: task,
                    pid,
                    exit_status: exited.status,
                    exited_at: Some(timestamp(exited.at)).into(),
                    ..Default::default()
                },
            ),
            Event::Paused { task } => Encoded::new(
                TASK_PAUSED_EVENT_TOPIC,
                &wire::TaskPaused {
                    container_id: task,
                    ..Default::default()
                },
            ),
            Event::Resumed { task } => Encoded::new(
                TASK_RESUMED_EVENT_TOPIC,
                &wire::TaskResumed {
                    container_id: task,
                    ..Default::default()
                },
            ),
            Event::OutOfMemory { task } => Encoded::new(
                TASK_OOM_EVENT_TOPIC,
                &wire::TaskOOM {
                    container_id: task,
                    ..Default::default()
                },
            ),
            Event::Deleted { task, pid, exited } => Encoded::new(
                TASK_DELETE_EVENT_TOPIC,
                &wire::TaskDelete {
                    container_id: task,
                    pid,
                    exit_status: exited.status,
                    exited_at: Some(timestamp(exited.at)).into(),
                    ..Default::default()
                },
            ),
        }
    }
}

/// An event as it travels.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// containerd's topic.
    pub topic: &'static str,
    /// The message.
    pub message: Any,
    /// When it happened.
    pub at: SystemTime,
}

impl Encoded {
    /// containerd finds the type by its full name, without the usual URL in front.
    fn new<M: MessageFull>(topic: &'static str, message: &M) -> Self {
        let value = message.write_to_bytes();
        Self {
            topic,
            message: Any {
                type_url: M::descriptor().full_name().to_owned(),
                value: value.expect("an event has no required fields that could be missing"),
                ..Default::default()
            },
            at: SystemTime::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message;
    use std::time::UNIX_EPOCH;

    #[test]
    fn the_first_process_exits_under_its_containers_id() {
        let ended = |exec: &str| Event::Ended {
            task: "t1".into(),
            exec: exec.into(),
            pid: 7,
            exited: Exited {
                status: 3,
                at: UNIX_EPOCH,
                oom_killed: false,
            },
        };
        let check = |event: Event, id: &str| {
            let encoded = event.encode();
            assert_eq!(encoded.topic, "/tasks/exit");
            assert_eq!(encoded.message.type_url, "containerd.events.TaskExit");
            let exit = wire::TaskExit::parse_from_bytes(&encoded.message.value).unwrap();
            assert_eq!((exit.id.as_str(), exit.exit_status), (id, 3));
        };
        check(ended(""), "t1");
        check(ended("e1"), "e1");
    }
}
