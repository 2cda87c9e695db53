// SPDX-License-Identifier: Apache-2.0
//! The cold boot: from open files to a machine at its kernel's first instruction, in one screen.
//! The order is the content. Only templates are made so; everything else is a `restore` of one.
//!
//! jail first: nothing of what follows needs a privilege, and the images are foreign bytes ->
//! memory -> memory slots, then interrupt controllers (see [`cube_hv::Vm::new`]) -> processors
//! (their local interrupt controllers need the others) -> devices -> what the kernel is told (it
//! names the devices) -> wires and threads, standing.

use std::io;

use cube_hv::memory::MemoryError;
use cube_hv::{Kvm, KvmError, LongMode, Vcpu, VcpuError, Vm, VmError, memory};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::acpi;
use crate::config::{BootConfig, Shape};
use crate::control::BootFiles;
use crate::devices::{Devices, DevicesError};
use crate::end::Ending;
use crate::image::{Image, ImageError};
use crate::jail::{self, JailError};
use crate::kernel::{Kernel, KernelError};
use crate::layout;
use crate::machine::{AssembleError, Machine, Parts};
use crate::params::{self, ParamsError};
use crate::serial::Console;

/// Why there is no machine.
#[derive(Debug, Error)]
pub enum BootError {
    /// The process could not be confined.
    #[error("the machine's process could not be confined")]
    Jail(#[from] JailError),
    /// The host cannot run machines.
    #[error("the host's KVM is unfit")]
    Kvm(#[from] KvmError),
    /// No memory.
    #[error("the machine got no memory")]
    Memory(#[from] MemoryError),
    /// KVM refused the machine.
    #[error("the machine could not be made")]
    Vm(#[from] VmError),
    /// The initramfs file.
    #[error("the initramfs is unfit")]
    Initramfs(#[source] ImageError),
    /// The kernel file.
    #[error("the guest kernel is unfit")]
    Kernel(#[from] KernelError),
    /// KVM refused a processor.
    #[error("a virtual processor could not be made")]
    Vcpu(#[from] VcpuError),
    /// The devices.
    #[error("the machine's devices could not be made")]
    Devices(#[from] DevicesError),
    /// The serial console.
    #[error("the serial console could not be made")]
    Console(#[source] io::Error),
    /// What the kernel is told.
    #[error("the kernel could not be told what it runs on")]
    Params(#[from] ParamsError),
    /// Tables for the first instruction.
    #[error("the machine's tables could not be written")]
    Tables(#[from] GuestMemoryError),
    /// Wires and threads.
    #[error("the machine could not be put together")]
    Assemble(#[from] AssembleError),
}

/// Builds the machine; its processors stand.
pub(crate) fn boot(
    config: &BootConfig,
    shape: Shape,
    files: BootFiles,
    ending: &Ending,
) -> Result<Machine, BootError> {
    jail::enter(files.netns.as_ref(), config.uid, config.gid)?;

    let kvm = Kvm::new(files.kvm)?;
    let vm = Vm::new(&kvm, memory::allocate(&layout::memory(shape))?)?;
    let memory = vm.memory();
    let kernel = Image::new(files.kernel).map_err(KernelError::from)?;
    let kernel = Kernel::load(&kernel, memory, layout::low_end(shape))?;
    let initramfs = Image::new(files.initramfs).map_err(BootError::Initramfs)?;
    let initramfs = params::place_initramfs(&initramfs, &kernel, shape, memory)?;

    let vcpus = make_vcpus(&kvm, &vm, shape)?;
    let mode = LongMode::install(memory, GuestAddress(layout::BOOT_TABLES))?;
    if let Some(first) = vcpus.first() {
        first.enter_at(&mode, GuestAddress(kernel.entry), layout::ZERO_PAGE)?;
    }

    let devices = Devices::new(memory, files.vsock)?;
    let console = Console::new(files.serial).map_err(BootError::Console)?;
    let (tables, rsdp) = acpi::tables(layout::ACPI, shape.vcpus(), &devices.windows());
    memory.write_slice(&tables, GuestAddress(layout::ACPI))?;
    let cmdline = params::cmdline(&config.cmdline)?;
    params::write(memory, shape, &kernel, initramfs, &cmdline, rsdp)?;

    let parts = Parts {
        kvm,
        vm,
        shape,
        vcpus,
        devices,
        console,
    };
    let clock = parts.vm.save_clock()?;
    Ok(Machine::assemble(parts, clock, ending)?)
}

fn make_vcpus(kvm: &Kvm, vm: &Vm, shape: Shape) -> Result<Vec<Vcpu>, BootError> {
    let supported = kvm.supported_cpuid()?;
    let mut vcpus = Vec::new();
    for id in 0..shape.vcpus() {
        let vcpu = vm.create_vcpu(id)?;
        vcpu.set_up(&supported, shape.vcpus())?;
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}
