// SPDX-License-Identifier: Apache-2.0
//! Making a virtual processor leave the guest, from another thread.
//!
//! A signal alone can come a moment before `KVM_RUN` and be lost; the flag
//! `kvm_run.immediate_exit` alone is only read on entry. So a kick sets the flag and then
//! sends the signal (KVM API, section 5, `immediate_exit`). The flag lives in a page that the
//! vCPU's descriptor maps; the kicker maps that page a second time for itself, so no lifetime
//! ties the two threads together.

// UNSAFETY: maps the shared page, reads and writes it, installs a signal handler, and sends
// a signal to one thread.
#![allow(
    unsafe_code,
    reason = "shared mappings and signals to one thread have no safe interface"
)]

use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Makes one virtual processor leave the guest.
#[derive(Clone, Debug)]
pub struct Kicker {
    shared: Arc<Shared>,
}

impl Kicker {
    /// Makes the processor's [`run`](crate::Vcpu::run) return [`Exit::Kicked`](crate::Exit)
    /// soon, whether it is in the guest now or about to enter. At least one return for any
    /// number of kicks.
    pub fn kick(&self) {
        self.shared.page.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.shared.thread.load(Ordering::SeqCst);
        if thread == NO_THREAD {
            return; // it has not run yet, and will see the flag when it does
        }
        // SAFETY: takes three integers. The thread may be gone; then the call fails, or another
        // thread of this process has an interrupted system call, which it has to expect.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGRTMIN()) };
    }
}

const NO_THREAD: i32 = 0;

/// What a virtual processor and its kickers have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    page: RunPage,
    /// The kernel's id of the thread that runs the processor.
    thread: AtomicI32,
}

impl Shared {
    pub(crate) fn new(vcpu: &impl AsRawFd, run_size: usize) -> Result<Arc<Self>, errno::Error> {
        // Without a handler the signal would end the process.
        register_signal_handler(SIGRTMIN(), on_kick)?;
        Ok(Arc::new(Self {
            page: RunPage::map(vcpu, run_size)?,
            thread: AtomicI32::new(NO_THREAD),
        }))
    }

    pub(crate) fn kicker(self: &Arc<Self>) -> Kicker {
        Kicker {
            shared: Arc::clone(self),
        }
    }

    /// Remembers the calling thread as the one to signal.
    pub(crate) fn adopt_thread(&self) {
        // SAFETY: has no arguments and cannot fail.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, Ordering::SeqCst);
    }

    /// Takes a kick back, before its reason is looked up: a later kick must stay.
    pub(crate) fn acknowledge(&self) {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// The bytes per element of the port access that KVM just reported.
    pub(crate) fn io_width(&self) -> u8 {
        // SAFETY: the caller was told `KVM_EXIT_IO` by the thread that is here, so the kernel
        // filled this variant and does not write now; any bytes are valid for its type.
        unsafe { (*self.page.address).__bindgen_anon_1.io.size }
    }

    /// The kind of internal error that KVM just reported.
    pub(crate) fn internal_suberror(&self) -> u32 {
        // SAFETY: as in `io_width`, for `KVM_EXIT_INTERNAL_ERROR`.
        unsafe { (*self.page.address).__bindgen_anon_1.internal.suberror }
    }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// An own mapping of a vCPU's `kvm_run`.
#[derive(Debug)]
struct RunPage {
    address: *mut kvm_run,
    bytes: usize,
}

// SAFETY: the mapping is shared memory that outlives every reference to it; the field that two
// threads touch is only accessed atomically, the others only by the processor's own thread.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    fn map(vcpu: &impl AsRawFd, bytes: usize) -> Result<Self, errno::Error> {
        if bytes < size_of::<kvm_run>() {
            return Err(errno::Error::new(libc::EINVAL));
        }
        // SAFETY: a new mapping of a size that the kernel named, at an address it chooses.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(errno::Error::last());
        }
        Ok(Self {
            address: address.cast(),
            bytes,
        })
    }

    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the pointer stays inside the mapping for as long as `self`, a byte is always
        // aligned, and on our side the byte is only accessed atomically through here.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.address).immediate_exit) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` and nothing borrows from it any more.
        unsafe { libc::munmap(self.address.cast(), self.bytes) };
    }
}
