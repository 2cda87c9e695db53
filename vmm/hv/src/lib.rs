// SPDX-License-Identifier: Apache-2.0
//! KVM, guest memory and tap interfaces: the host's only unsafe room.
//!
//! A machine is made in one order, which the types hold: [`Kvm`] (the device file, checked) ->
//! [`memory::allocate`] -> [`Vm::new`] (memory slots first, then the interrupt controllers) ->
//! [`Vm::create_vcpu`] -> [`Vcpu::run`]. What leaves this crate is safe: exits are data
//! ([`Exit`]), descriptors are owned, guest memory is `vm-memory`'s checked view.
//!
//! It knows no device, no port number and no guest operating system, and it starts no
//! threads except the deadline of [`probe`]. `cube-vmm` is its only user.

pub mod cpuid;
mod fingerprint;
mod kick;
mod kvm;
mod long_mode;
pub mod memory;
mod msr;
pub mod probe;
mod tap;
mod tsc;
mod vcpu;
mod vm;

pub use kick::Kicker;
pub use kvm::{Kvm, KvmError};
pub use long_mode::{LONG_MODE_BYTES, LongMode};
pub use memory::GuestMemory;
pub use tap::{Tap, TapOffload};
pub use vcpu::{Exit, RunError, Vcpu, VcpuError, VcpuState};
pub use vm::{ClockState, IrqchipState, Vm, VmError};
