// SPDX-License-Identifier: Apache-2.0
//! What a stage does, from its first instruction to its last, in order.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, chdir, getcwd, set_dumpable_behavior, setsid, umask};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces, set_no_new_privs};

use super::error::StageError;
use super::hold::hold;
use super::root::Root;
use super::rootfs::Tree;
use super::terminal::Terminal;
use super::{CHANNEL_FD, Channel, JOIN_FD, Message, PLAN_FD, Plan, ProcessPlan};
use super::{command, credentials, users};
use crate::cause::{Cause, chain};
use crate::guest::processor;
use crate::sys;

/// The stage. Ends as the user's program, or with [`sys::STAGE_FAILED`] after telling the agent why.
pub fn main() -> ! {
    sys::restore_signals();
    let Ok(channel) = sys::inherited(CHANNEL_FD).map(Channel::inherited) else {
        sys::exit_now(sys::STAGE_FAILED);
    };
    let error = match read_plan().and_then(|plan| run(&channel, plan)) {
        Ok(()) => {
            // As an exec would.
            drop(channel);
            hold()
        }
        Err(error) => error,
    };
    // If the agent is gone too, nobody is left to tell.
    drop(channel.send(&Message::Failed(chain(&error))));
    sys::exit_now(sys::STAGE_FAILED)
}

fn read_plan() -> Result<Plan, StageError> {
    let read = || {
        let mut file = File::from(sys::inherited(PLAN_FD)?);
        file.rewind()?;
        let mut json = Vec::new();
        file.read_to_end(&mut json)?;
        serde_json::from_slice(&json).map_err(std::io::Error::from)
    };
    read().map_err(|error| StageError::Plan(error.into()))
}

/// Returns if the process executes nothing.
fn run(channel: &Channel, mut plan: Plan) -> Result<(), StageError> {
    // A process of the container that this stage is about to join could otherwise trace it and take its
    // descriptors (CVE-2016-9962). The exec at the end lifts it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(attribute("dumpable flag"))?;
    umask(Mode::empty());
    setsid().map_err(attribute("session"))?;
    credentials::set_oom_score(&plan.process)?;
    join(&plan)?;
    own_keyring(&plan)?;

    let master = match &plan.container {
        Some(container) => {
            sys::unshare_cgroup_namespace().map_err(namespace("cgroup namespace"))?;
            let tree = Tree::build(container)?;
            let terminal = open_terminal(plan.terminal, &tree.root, &plan.process)?;
            if let Some(terminal) = &terminal {
                terminal.be_console(&tree.root)?;
            }
            users::add_home(&tree.root, &mut plan.process.env, plan.process.uid);
            tree.enter()?;
            terminal
        }
        None => {
            let root = Root::open(Path::new("/")).map_err(namespace("root directory"))?;
            users::add_home(&root, &mut plan.process.env, plan.process.uid);
            open_terminal(plan.terminal, &root, &plan.process)?
        }
    }
    .map(Terminal::take)
    .transpose()?;

    let process = &plan.process;
    enter_directory(&process.cwd)?;
    // Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it is kept until after that.
    let keep_admin = plan.seccomp.is_some() && !process.no_new_privileges;
    credentials::apply(process, keep_admin)?;
    if process.no_new_privileges {
        set_no_new_privs(true).map_err(attribute("no_new_privs flag"))?;
    }
    let is_held = plan.container.as_ref().is_some_and(|plan| plan.is_held);
    let program = (!is_held).then(|| find_program(process)).transpose()?;
    umask(Mode::from_raw_mode(process.umask));
    wait_for_go(channel, master)?;
    processor::use_all().map_err(attribute("processors"))?;

    // From here on a filter may forbid anything but what follows.
    if let Some(filter) = &plan.seccomp {
        install(filter)?;
    }
    if keep_admin {
        credentials::drop_to(&process.capabilities)?;
    }
    match program {
        Some((path, program)) => Err(StageError::Exec {
            source: sys::execute(&program).into(),
            path,
        }),
        None => Ok(()),
    }
}

fn find_program(process: &ProcessPlan) -> Result<(String, sys::Program), StageError> {
    let path = command::find(&process.args[0], &process.env)?;
    let program = sys::Program::new(&path, &process.args, &process.env)
        .map_err(|_| attribute("arguments")(Cause::new("a string contains a NUL byte")))?;
    Ok((path, program))
}

fn join(plan: &Plan) -> Result<(), StageError> {
    if !plan.join.any() {
        return Ok(());
    }
    let process = sys::inherited(JOIN_FD).map_err(namespace("container"))?;
    let mut kinds = ThreadNameSpaceType::empty();
    kinds.set(ThreadNameSpaceType::MOUNT, plan.join.mount);
    kinds.set(ThreadNameSpaceType::CONTROL_GROUP, plan.join.mount);
    kinds.set(
        ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
        plan.join.ipc,
    );
    kinds.set(
        ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
        plan.join.uts,
    );
    move_into_thread_name_spaces(process.as_fd(), kinds)
        .map_err(namespace("container's namespaces"))
}

fn own_keyring(plan: &Plan) -> Result<(), StageError> {
    let name = CString::new(format!("_ses.{}", plan.container_id))
        .map_err(|_| attribute("session keyring")(Cause::new("the id contains a NUL byte")))?;
    sys::join_session_keyring(&name).map_err(attribute("session keyring"))
}

fn open_terminal(
    wanted: bool,
    root: &Root,
    process: &ProcessPlan,
) -> Result<Option<Terminal>, StageError> {
    wanted
        .then(|| Terminal::open(root, process.window))
        .transpose()
}

/// As root, before the user changes, as runc does: a process may start in a directory that it could not
/// enter. Unlike runc, which makes a missing one for the first process (not for further ones), this is an
/// error for every process: a mistyped directory should not become an empty one.
fn enter_directory(cwd: &Path) -> Result<(), StageError> {
    let failed = |source| StageError::Cwd {
        cwd: cwd.to_path_buf(),
        source,
    };
    chdir(cwd).map_err(|errno| failed(errno.into()))?;
    // A path through a descriptor that leaked from the machine would lead there (CVE-2024-21626).
    match getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        Ok(_) => Err(failed(Cause::new("it is outside of the container"))),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn wait_for_go(channel: &Channel, master: Option<OwnedFd>) -> Result<(), StageError> {
    channel
        .send(&Message::Ready(master))
        .map_err(|error| StageError::Channel(error.into()))?;
    match channel.receive() {
        Ok(Some(Message::Go)) => Ok(()),
        Ok(_) => Err(StageError::Channel(Cause::new("it is gone"))),
        Err(error) => Err(StageError::Channel(error.into())),
    }
}

fn install(filter: &crate::seccomp::Filter) -> Result<(), StageError> {
    let program: Vec<libc::sock_filter> = filter
        .program
        .iter()
        .map(|instruction| libc::sock_filter {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect();
    sys::install_seccomp(&program, filter.flags).map_err(attribute("seccomp filter"))
}

fn attribute<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError::Attribute {
        what: what.to_owned(),
        source: source.into(),
    }
}

fn namespace<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError::Namespace {
        what,
        source: source.into(),
    }
}
