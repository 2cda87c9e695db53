// SPDX-License-Identifier: Apache-2.0
//! The messages of the control socket. A change here changes `tests/control_golden.json`.

use serde::{Deserialize, Serialize};

use crate::config::{BootConfig, RestoreConfig};

/// What the runtime asks. The descriptors of a variant travel with its packet, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Build the machine, enter the jail, run the guest. Once per process.
    ///
    /// Descriptors: `/dev/kvm`, kernel, initramfs, listening vsock socket, serial log, and
    /// the network namespace if `netns` is true.
    Boot {
        /// The machine.
        config: BootConfig,
        /// Whether a sixth descriptor names the network namespace to live in.
        netns: bool,
    },
    /// Build the machine of a snapshot, enter the jail, go on where it was saved. Once per process.
    ///
    /// Descriptors: `/dev/kvm`, state file, memory file, listening vsock socket, serial log, the
    /// working set if `working_set` is true, the network namespace if `netns` is true, and the
    /// disks of the configuration.
    Restore {
        /// How.
        config: RestoreConfig,
        /// Whether a descriptor names the file of the working set.
        working_set: bool,
        /// Whether a descriptor names the network namespace to live in.
        netns: bool,
    },
    /// Write the state of a paused machine, and every page of memory that is its own. It stays
    /// paused.
    ///
    /// Descriptors: state file (empty), memory file (empty, or a clone of the one that the machine
    /// was restored from), and the VMM's own `/proc/PID/pagemap`.
    Save,
    /// Write down which pages have been touched since the restore: the working set of the next one.
    ///
    /// Descriptors: the file to write (empty), and the VMM's own `/proc/PID/pagemap`.
    WorkingSet,
    /// Put a disk into an empty block slot. Descriptor: the image file or block device.
    Attach {
        /// The slot, 0 to 7.
        slot: u8,
        /// Whether the guest's writes are refused.
        read_only: bool,
    },
    /// Take the disk out of a block slot.
    Detach {
        /// The slot, 0 to 7.
        slot: u8,
    },
    /// Give a network slot its wire: the guest sees the carrier come. Descriptor: a tap, made with
    /// `IFF_NO_PI` and `IFF_VNET_HDR`.
    AttachNet {
        /// The slot, 0 to 3.
        slot: u8,
    },
    /// Take the wire away.
    DetachNet {
        /// The slot, 0 to 3.
        slot: u8,
    },
    /// Stop all virtual processors.
    Pause,
    /// Let them run again.
    Resume,
    /// Say what the machine has done so far.
    Stats,
    /// End the process; the guest is not asked. The reply comes first.
    Quit,
}

impl Request {
    /// The verb, for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Boot { .. } => "boot",
            Request::Restore { .. } => "restore",
            Request::Save => "save",
            Request::WorkingSet => "record the working set",
            Request::Attach { .. } => "attach",
            Request::Detach { .. } => "detach",
            Request::AttachNet { .. } => "attach a network",
            Request::DetachNet { .. } => "detach a network",
            Request::Pause => "pause",
            Request::Resume => "resume",
            Request::Stats => "stats",
            Request::Quit => "quit",
        }
    }
}

/// What the VMM answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done,
    /// The answer to [`Request::Stats`].
    Stats(Stats),
    /// It was not done.
    Failed {
        /// What failed, then its causes, outermost first.
        chain: Vec<String>,
    },
}

/// Whether the virtual processors run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// They run.
    Running,
    /// They were paused.
    Paused,
}

/// Counters of one machine since its boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Whether the virtual processors run.
    pub state: RunState,
    /// Exits of each virtual processor to this process.
    pub vcpu_exits: Vec<u64>,
    /// Bytes the guest wrote to its serial console.
    pub serial_bytes: u64,
    /// Of these, how many the log did not take because it was full.
    pub serial_dropped: u64,
    /// The block slots that hold a disk.
    pub attached_slots: Vec<u8>,
}
