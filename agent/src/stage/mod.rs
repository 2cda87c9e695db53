// SPDX-License-Identifier: Apache-2.0
//! The set-up stage: the short life of a process between clone and its own program.
//!
//! The agent starts itself again under the name [`STAGE_NAME`](crate::sys::STAGE_NAME), already in the
//! container's cgroup and in its new namespaces. Single-threaded and fresh from exec, the stage may do what
//! a forked copy of the agent must not: allocate, mount, resolve paths. It reads its [`Plan`], prepares
//! everything, reports, and waits; told to go, it becomes the user's program.
//!
//! ```text
//! agent                         stage
//!   clone3 + exec ---------------> read plan
//!                                  join or build the container, terminal, identity, limits
//!   CreateProcess answers <------- ready (with the terminal's master side), or the error
//!   StartProcess: go ------------> seccomp filter, exec
//!   StartProcess answers <-------- end of file (exec closed the channel), or the error
//! ```
//!
//! Descriptors: 0, 1, 2 are the process's; 3 is the channel, 4 the plan, 5 (if the plan joins something) a
//! pidfd of a process whose namespaces it joins. Nothing else is open, and none of these three survives
//! the exec.
//!
//! A container may be held: then its first process executes nothing, but waits and reaps orphans until it is
//! killed, so that a container can be of an image with no program fit for that.
//!
//! What runs here trusts the agent and nobody else: paths of the container are resolved inside of its root
//! ([`root`]), because an image or an earlier process decides where its symbolic links point.

mod channel;
mod command;
mod credentials;
mod devices;
mod error;
mod hold;
mod machine_id;
mod mounts;
mod paths;
mod plan;
mod recipe;
mod root;
mod rootfs;
mod terminal;
mod users;

pub use channel::{Channel, Message};
pub use plan::{
    CapabilityPlan, ContainerPlan, DevicePlan, MountPlan, MountSource, Plan, ProcessPlan,
    RlimitPlan, SharedNamespaces, WindowSize,
};
pub use recipe::main;
pub use root::{Root, proc_path};
pub use terminal::resize;

/// Descriptor of the channel to the agent.
pub const CHANNEL_FD: i32 = 3;
/// Descriptor of the file that holds the plan.
pub const PLAN_FD: i32 = 4;
/// Descriptor of the process whose namespaces are joined.
pub const JOIN_FD: i32 = 5;
