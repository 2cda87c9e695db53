// SPDX-License-Identifier: Apache-2.0
//! The agent's only unsafe room: the system calls that no safe crate offers.
//!
//! Starting a child in new namespaces and a given cgroup ([`spawn_stage`]), becoming another program
//! ([`execute`]), and a few calls that take raw structures. Everything that comes in or goes out is owned
//! or borrowed; raw file descriptors and pointers do not leave this file.
//!
//! Called by `process::spawn` (in the agent), by `stage` (in the child) and by `guest` (at boot).

// UNSAFETY: clone3, execve, seccomp, keyctl, unshare, the random ioctls and signal dispositions have no
// safe wrapper in rustix or std; each is one block with its reason.
#![allow(
    unsafe_code,
    reason = "the one room of this crate where the compiler's guarantees are replaced by written ones"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Name under which the agent's binary runs itself as the set-up stage of a process (its `argv[0]`).
pub const STAGE_NAME: &str = "cube-stage";

const STAGE_ARGV0: &CStr = c"cube-stage";
const SELF_EXE: &CStr = c"/proc/self/exe";

/// Of linux/sched.h; they do not fit the integer type that libc gives them.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// New namespaces for a child, as `CLONE_NEW*` bits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NewNamespaces(u64);

impl NewNamespaces {
    /// Process ids.
    pub const PID: Self = Self(libc::CLONE_NEWPID as u64);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS as u64);
    /// System V IPC and message queues.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC as u64);
    /// Host name and domain name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS as u64);

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Starts this same program as a set-up stage: `argv[0]` is [`STAGE_NAME`], descriptor `n` is `fds[n]`,
/// nothing else is open, every signal is blocked. It is born in `cgroup` and in the new namespaces, so
/// neither needs to be joined, which would cost a grace period of the kernel.
///
/// Until its exec the child runs in this program's memory, on a stack of its own, and this thread stands
/// still (`CLONE_VM`, `CLONE_VFORK`): a copy of the memory would cost a page table now, and a page for
/// whatever either side writes to before the exec.
pub fn spawn_stage(
    namespaces: NewNamespaces,
    cgroup: BorrowedFd<'_>,
    fds: &[BorrowedFd<'_>],
) -> Result<Pid, StageFailure> {
    // Copies above the targets, so that no dup2 below overwrites a source still to come.
    let lowest = c_int::try_from(fds.len()).map_err(io::Error::other)?;
    let mut copies = Vec::new();
    let mut sources = Vec::with_capacity(fds.len());
    for fd in fds {
        if fd.as_raw_fd() >= lowest {
            sources.push(fd.as_raw_fd());
        } else {
            let copy = fcntl_dupfd_cloexec(fd, lowest).map_err(io::Error::from)?;
            sources.push(copy.as_raw_fd());
            copies.push(copy);
        }
    }
    let mut stack = [ChildStack::EMPTY; CHILD_STACK / size_of::<ChildStack>()];
    let mut child = Child {
        sources: &sources,
        exec_error: 0,
    };

    // SAFETY: clone_args is plain data for which all zeroes mean "nothing asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let sharing = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    args.flags = namespaces.0 | sharing | CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = size_of_val(&stack) as u64;

    let blocked = BlockedSignals::new();
    // SAFETY: the child runs only `become_stage` on `stack`, which calls nothing but async-signal-safe
    // functions and ends in an exec or an exit; until then this thread is suspended, so everything that
    // `args` and `child` point to stays where it is and nobody else touches it.
    let result = unsafe { clone_with_stack(&mut args, &raw mut child) };
    drop(blocked);
    drop(copies);
    match i32::try_from(result) {
        // The child is dead: nobody's process any more, for whoever buries those.
        Ok(1..) if child.exec_error != 0 => {
            let error = io::Error::from_raw_os_error(child.exec_error);
            Err(StageFailure::Exec(error))
        }
        Ok(pid @ 1..) => {
            Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData).into())
        }
        Ok(error) => Err(io::Error::from_raw_os_error(-error).into()),
        Err(error) => Err(io::Error::other(error).into()),
    }
}

/// Why there is no stage.
#[derive(Debug)]
pub enum StageFailure {
    /// There is no child.
    Clone(io::Error),
    /// There was one, and it could not become this program again.
    Exec(io::Error),
}

impl From<io::Error> for StageFailure {
    fn from(error: io::Error) -> Self {
        Self::Clone(error)
    }
}

/// Bytes of stack for the few calls between clone and exec.
const CHILD_STACK: usize = 4096;

/// What a stack consists of: the ABI wants its end on a multiple of 16.
#[derive(Clone, Copy)]
#[repr(align(16))]
struct ChildStack(#[allow(dead_code, reason = "written by the child only")] [u8; 16]);

impl ChildStack {
    const EMPTY: Self = Self([0; 16]);
}

/// What a child needs to become a stage, and its answer.
struct Child<'a> {
    sources: &'a [c_int],
    /// Number of the error that kept it from that.
    exec_error: c_int,
}

/// clone3(2) whose child calls `become_stage(child)` on the stack in `args`. libc has no wrapper for it.
///
/// # Safety
/// `args` must ask for `CLONE_VM | CLONE_VFORK` and have a stack; `child` must be valid.
unsafe fn clone_with_stack(args: &mut libc::clone_args, child: *mut Child<'_>) -> i64 {
    let result: i64;
    // SAFETY: the system call clobbers rcx and r11 besides its result. In the child it returns 0 on an empty
    // stack that is aligned as a call wants it; what is called there never returns. Parent and child have
    // their own registers, and the parent goes on with the ones it had.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw mut *args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") child,
            in("r13") become_stage as unsafe extern "C" fn(*mut Child<'_>) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The child's half of [`spawn_stage`]: descriptors into place, then exec. No allocation, no panic.
unsafe extern "C" fn become_stage(child: *mut Child<'_>) -> ! {
    let argv = [STAGE_ARGV0.as_ptr(), ptr::null()];
    let envp: [*const c_char; 1] = [ptr::null()];
    // SAFETY: the parent made it for this call, and waits.
    let child = unsafe { &mut *child };
    for (target, source) in (0..).zip(child.sources) {
        // SAFETY: dup2 takes two integers; a failure is the return value.
        if unsafe { libc::dup2(*source, target) } < 0 {
            fail(child);
        }
    }
    // SAFETY: both arrays end with a null pointer and point to static strings.
    unsafe { libc::execve(SELF_EXE.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    fail(child)
}

fn fail(child: &mut Child<'_>) -> ! {
    // SAFETY: the address of this thread's errno is always valid. It is the parent's too, who waits.
    child.exec_error = unsafe { *libc::__errno_location() };
    exit_now(STAGE_FAILED)
}

/// Takes one of the descriptors that a stage was born with, and keeps it from the program that follows.
/// Each may be taken once.
pub fn inherited(fd: c_int) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes integers; it fails for a number that is not open.
    check(c_long::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
    }))?;
    // SAFETY: it is open, it came through the exec, and nothing else in this process owns it: the stage
    // takes each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Exit code of a child that did not become a stage, and of a stage that reported its error.
pub const STAGE_FAILED: c_int = 127;

/// Keeps every signal out of this thread while it lives; the child of a clone inherits that.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are plain data, filled by the calls before they are read.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the mask that pthread_sigmask itself wrote.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// A program ready to be executed: everything is allocated beforehand, because a seccomp filter may forbid
/// what an allocation needs.
pub struct Program {
    path: CString,
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

impl Program {
    /// `path` is the file; `args[0]` only the name that it sees.
    pub fn new(path: &str, args: &[String], env: &[String]) -> Result<Self, std::ffi::NulError> {
        let mut strings = Vec::with_capacity(args.len() + env.len());
        let mut pointers = |list: &[String]| {
            let mut out: Vec<*const c_char> = Vec::with_capacity(list.len() + 1);
            for text in list {
                let text = CString::new(text.as_str())?;
                // The heap block of a CString stays where it is when the CString moves.
                out.push(text.as_ptr());
                strings.push(text);
            }
            out.push(ptr::null());
            Ok::<_, std::ffi::NulError>(out)
        };
        let argv = pointers(args)?;
        let envp = pointers(env)?;
        Ok(Self {
            path: CString::new(path)?,
            _strings: strings,
            argv,
            envp,
        })
    }
}

/// Becomes the program. Comes back only with an error.
pub fn execute(program: &Program) -> io::Error {
    // SAFETY: path and strings are NUL-terminated, both arrays end with a null pointer, and `program`
    // keeps all of them alive.
    unsafe {
        libc::execve(
            program.path.as_ptr(),
            program.argv.as_ptr(),
            program.envp.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Ends the process at once: no destructor, no exit handler.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Has the kernel reap this process's children as they end (wait(2), SIGCHLD set to SIG_IGN).
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Gives a user's program the signals that it expects: nothing blocked, SIGPIPE deadly (Rust's start-up
/// code ignores it). Other handlers vanish with the exec.
pub fn restore_signals() {
    // SAFETY: the set is filled before use; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Puts this thread into a cgroup namespace whose root is its present cgroup.
pub fn unshare_cgroup_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWCGROUP alone leaves memory and descriptors of the process as they are.
    check(c_long::from(unsafe {
        libc::unshare(libc::CLONE_NEWCGROUP)
    }))
}

/// Installs a seccomp filter for this thread; `flags` are the kernel's `SECCOMP_FILTER_FLAG_*`.
pub fn install_seccomp(program: &[libc::sock_filter], flags: c_ulong) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions from `filter` during the call and copies them; it checks
    // the program itself.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })
}

/// Gives the kernel a program that decides which devices may be used (bpf(2),
/// `BPF_PROG_TYPE_CGROUP_DEVICE`). It lives as long as the descriptor and the cgroups that it is attached to.
pub fn load_device_filter(program: &[u64]) -> io::Result<OwnedFd> {
    // Numbers of linux/bpf.h.
    const PROG_LOAD: c_long = 5;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;

    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        first: *const u64,
        licence: *const c_char,
        log: [u64; 2],
    }

    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        instructions: u32::try_from(program.len()).map_err(io::Error::other)?,
        first: program.as_ptr(),
        licence: c"Apache-2.0".as_ptr(),
        log: [0; 2],
    };
    // SAFETY: the structure begins as union bpf_attr does for this command, whose remaining fields may be
    // left out; the kernel reads `instructions` words from `first` and the licence, and verifies the program.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    check(fd)?;
    let fd = c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call just made it, for this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes such a program decide for the processes of a cgroup, besides those that decide already.
pub fn attach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // Numbers of linux/bpf.h.
    const PROG_ATTACH: c_long = 8;
    const CGROUP_DEVICE_HOOK: u32 = 6;
    const ALLOW_MULTI: u32 = 1 << 1;

    #[repr(C)]
    struct Attach {
        cgroup: c_int,
        program: c_int,
        hook: u32,
        flags: u32,
    }

    let attach = Attach {
        cgroup: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        hook: CGROUP_DEVICE_HOOK,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure is all that union bpf_attr has for this command; both descriptors are open.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    })
}

/// Gives this process a session keyring of its own. Without it every container shares, and may search, the
/// agent's. A kernel without keyrings has nothing to share.
pub fn join_session_keyring(name: &CStr) -> io::Result<()> {
    /// `KEYCTL_JOIN_SESSION_KEYRING` of linux/keyctl.h.
    const JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the name is NUL-terminated and only read.
    let joined =
        check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) });
    match joined {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Most bytes that [`add_entropy`] takes: the pool holds 256 bits, four times that is plenty.
pub const MAX_ENTROPY: usize = 128;

/// Mixes bytes into the kernel's pool, counts them as random, and makes the generator draw from it at once
/// (random(4): `RNDADDENTROPY`, `RNDRESEEDCRNG`). Without the second call two clones of one snapshot would
/// go on giving the same numbers for minutes.
pub fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct Pool {
        entropy_bits: c_int,
        size: c_int,
        bytes: [u8; MAX_ENTROPY],
    }
    const ADD_ENTROPY: c_ulong = 0x4008_5203;
    const RESEED: c_ulong = 0x5207;

    let mut pool = Pool {
        entropy_bits: 0,
        size: 0,
        bytes: [0; MAX_ENTROPY],
    };
    let used = bytes.len().min(MAX_ENTROPY);
    pool.bytes[..used].copy_from_slice(&bytes[..used]);
    pool.size = c_int::try_from(used).map_err(io::Error::other)?;
    pool.entropy_bits = pool.size * 8;
    // SAFETY: the structure is laid out as linux/random.h says, with `size` bytes valid behind it.
    check(c_long::from(unsafe {
        libc::ioctl(random.as_raw_fd(), ADD_ENTROPY, &raw const pool)
    }))?;
    // SAFETY: the call takes no argument.
    check(c_long::from(unsafe {
        libc::ioctl(random.as_raw_fd(), RESEED, ptr::null::<c_void>())
    }))
}

/// Has every thread allocate from the same heap (mallopt(3), `M_ARENA_MAX`). The few threads that wait for a
/// disk allocate a handful of times; a heap of its own costs each of them a mapping and pages that stay.
pub fn share_heap() {
    // SAFETY: the call takes two integers, before any other thread is there.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Sends a signal, real-time ones included; 0 only asks whether the process exists.
pub fn kill(pid: u32, signal: u32) -> io::Result<()> {
    let number = |value: u32| i32::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    // 0 and negative numbers would mean groups of processes.
    let pid = number(pid)?.max(1);
    let signal = number(signal)?;
    // SAFETY: kill takes two integers.
    check(c_long::from(unsafe { libc::kill(pid, signal) }))
}

/// Sends a signal to every process of the group that a process leads.
pub fn kill_group(leader: u32, signal: u32) -> io::Result<()> {
    let number = |value: u32| i32::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    // 0 would mean this process's own group, 1 everything.
    let leader = number(leader)?.max(2);
    let signal = number(signal)?;
    // SAFETY: kill takes two integers.
    check(c_long::from(unsafe { libc::kill(-leader, signal) }))
}

/// Puts a descriptor under the watch of the event loop.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps its number and stays open until it is dropped, which AsyncFd does only after
    // it has taken the number out of the event loop.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

fn check(result: c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_nul_inside_is_refused() {
        let args = ["a\0b".to_owned()];
        assert!(Program::new("/bin/true", &args, &[]).is_err());
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let program = Program::new("/does/not/exist", &["x".to_owned()], &[]).unwrap();
        assert_eq!(execute(&program).kind(), io::ErrorKind::NotFound);
    }
}
