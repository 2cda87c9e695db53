// SPDX-License-Identifier: Apache-2.0
//! The cold boot: from open files to running processors, in one screen. The order is the
//! content.
//!
//! jail first: nothing of what follows needs a privilege, and the images are foreign bytes ->
//! memory -> memory slots, then interrupt controllers (see [`cube_hv::Vm::new`]) -> processors
//! (their local interrupt controllers need the others) -> devices and their wires -> what the
//! kernel is told (it names the devices) -> threads, standing -> run.

use std::io;
use std::sync::Arc;

use cube_hv::memory::MemoryError;
use cube_hv::{Kvm, KvmError, LongMode, Vcpu, VcpuError, Vm, VmError, memory};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::acpi;
use crate::bus::{Bus, Overlap, Registers};
use crate::config::{BootConfig, Shape};
use crate::control::{BootFiles, RunState};
use crate::devices::{Devices, DevicesError};
use crate::end::Ending;
use crate::gate::{Gate, Wanted};
use crate::image::{Image, ImageError};
use crate::io_thread::IoThread;
use crate::jail::{self, JailError};
use crate::kernel::{Kernel, KernelError};
use crate::layout;
use crate::machine::Machine;
use crate::params::{self, ParamsError};
use crate::power::{Keyboard, Reset, Sleep};
use crate::serial::Console;
use crate::vcpu::{Buses, VcpuThread};

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
    /// Two devices at one place.
    #[error("a device could not be placed")]
    Place(#[from] Overlap),
    /// The serial console.
    #[error("the serial console could not be made")]
    Console(#[source] io::Error),
    /// What the kernel is told.
    #[error("the kernel could not be told what it runs on")]
    Params(#[from] ParamsError),
    /// Tables for the first instruction.
    #[error("the machine's tables could not be written")]
    Tables(#[from] GuestMemoryError),
    /// A thread.
    #[error("a thread of the machine could not be started")]
    Thread(#[source] io::Error),
}

/// Builds the machine and lets it run.
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
    devices.connect(&vm)?;
    vm.connect_interrupt(console.irq(), layout::SERIAL_GSI)?;

    let (tables, rsdp) = acpi::tables(layout::ACPI, shape.vcpus(), &devices.windows());
    memory.write_slice(&tables, GuestAddress(layout::ACPI))?;
    let cmdline = params::cmdline(&config.cmdline)?;
    params::write(memory, shape, &kernel, initramfs, &cmdline, rsdp)?;

    let buses = Arc::new(make_buses(&devices, &console, ending)?);
    let gate = Arc::new(Gate::new(vcpus.len()));
    let io = serve_devices(&devices, ending).map_err(BootError::Thread)?;
    let mut machine = Machine {
        vcpus: Vec::new(),
        gate,
        state: RunState::Running,
        io,
        disks: Default::default(),
        devices,
        console,
        ending: ending.clone(),
        _vm: vm,
    };
    for vcpu in vcpus {
        let (buses, gate) = (Arc::clone(&buses), Arc::clone(&machine.gate));
        let thread = VcpuThread::spawn(vcpu, buses, gate, ending.clone());
        machine.vcpus.push(thread.map_err(BootError::Thread)?);
    }
    machine.gate.turn(Wanted::Run, || {});
    Ok(machine)
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

fn make_buses(
    devices: &Devices,
    console: &Arc<Console>,
    ending: &Ending,
) -> Result<Buses, BootError> {
    let devices_at_ports: [(u16, u16, Box<dyn Registers>); 4] = [
        (
            layout::SERIAL_PORT,
            layout::SERIAL_PORTS,
            Box::new(Arc::clone(console)),
        ),
        (layout::SLEEP_PORT, 2, Box::new(Sleep(ending.clone()))),
        (layout::RESET_PORT, 1, Box::new(Reset(ending.clone()))),
        (layout::KEYBOARD_PORT, 1, Box::new(Keyboard(ending.clone()))),
    ];
    let mut ports = Bus::default();
    for (first, count, device) in devices_at_ports {
        ports.insert(first.into(), count.into(), device)?;
    }
    let mut memory = Bus::default();
    devices.place(&mut memory)?;
    Ok(Buses { ports, memory })
}

fn serve_devices(devices: &Devices, ending: &Ending) -> io::Result<IoThread> {
    let io = IoThread::spawn("devices", Arc::clone(devices.all()), ending.clone())?;
    for number in 0..devices.all().len() {
        io.adopt(number)?;
    }
    Ok(io)
}
