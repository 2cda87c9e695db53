// SPDX-License-Identifier: Apache-2.0
//! THE hot path: from the files of a saved machine to a machine that goes on where it was, in one
//! screen. The order is the content; `save` is its counterpart.
//!
//! * jail first, as in a boot: nothing of what follows needs a privilege.
//! * memory is mapped, not read, and its working set is fetched beside what follows, then mapped into
//!   the guest before it runs (`prefault`).
//! * memory slots before the interrupt controllers ([`Vm::new`] says why), those before the processors,
//!   whose local controllers need them.
//! * every processor, in the order that `cube_hv`'s `vcpu::state` explains, then the interrupt
//!   controllers that they share (`vm::state`).
//! * devices last, with the disks that their guest goes on with: a pending interrupt of theirs would be erased by the interrupt controllers' restore.
//! * wires and threads, standing. [`Machine::resume`] sets the clock and lets them run.

use std::io;

use cube_hv::memory::{AdviseError, MemoryError};
use cube_hv::{Kvm, KvmError, VcpuError, Vm, VmError, memory};
use cube_snapshot::envelope::ReadError;
use thiserror::Error;

use crate::config::{ConfigError, RestoreConfig, Shape};
use crate::control::RestoreFiles;
use crate::devices::{Devices, DevicesError, Disks};
use crate::end::Ending;
use crate::jail::{self, JailError};
use crate::layout;
use crate::machine::{AssembleError, Machine, Parts};
use crate::prefault::{self, Prefault};
use crate::serial::Console;
use crate::state::MachineState;

/// Why there is no machine.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The process could not be confined.
    #[error("the machine's process could not be confined")]
    Jail(#[from] JailError),
    /// The state file.
    #[error("the machine's state is unfit")]
    State(#[from] ReadError),
    /// The state names a machine that cannot be.
    #[error("the machine's state has an impossible size")]
    Shape(#[from] ConfigError),
    /// The state has more or fewer processors than it says.
    #[error("the machine's state has {found} processors instead of {expected}")]
    Processors {
        /// How many there are.
        found: usize,
        /// How many it says.
        expected: u8,
    },
    /// The host cannot run machines.
    #[error("the host's KVM is unfit")]
    Kvm(#[from] KvmError),
    /// The memory file.
    #[error("the machine got no memory")]
    Memory(#[from] MemoryError),
    /// KVM refused the machine.
    #[error("the machine could not be made")]
    Vm(#[from] VmError),
    /// KVM refused a processor.
    #[error("a virtual processor could not be restored")]
    Vcpu(#[from] VcpuError),
    /// The devices.
    #[error("the machine's devices could not be restored")]
    Devices(#[from] DevicesError),
    /// The serial console.
    #[error("the serial console could not be restored")]
    Console(#[source] io::Error),
    /// The memory file would not be forgotten.
    #[error("the memory file could not be dropped from the page cache")]
    Record(#[source] io::Error),
    /// The memory would not be read page by page.
    #[error("the working set cannot be told")]
    ReadSingly(#[from] AdviseError),
    /// The thread that fetches the working set.
    #[error("the working set could not be fetched")]
    Prefault(#[source] io::Error),
    /// Wires and threads.
    #[error("the machine could not be put together")]
    Assemble(#[from] AssembleError),
}

/// Builds the machine; its processors stand.
pub(crate) fn restore(
    config: &RestoreConfig,
    files: RestoreFiles,
    ending: &Ending,
) -> Result<Machine, RestoreError> {
    jail::enter(files.netns.as_ref(), config.uid, config.gid)?;
    let state = MachineState::read(files.state)?;
    let shape = Shape::new(state.vcpus, state.memory_mib)?;
    if state.processors.len() != usize::from(state.vcpus) {
        return Err(RestoreError::Processors {
            found: state.processors.len(),
            expected: state.vcpus,
        });
    }

    if config.record {
        prefault::forget(&files.memory).map_err(RestoreError::Record)?;
    }
    let memory = memory::map(files.memory, &layout::memory(shape))?;
    if config.record {
        prefault::read_singly(&memory)?;
    }
    let prefault = files.working_set.map(|file| Prefault::start(file, &memory));
    let prefault = prefault.transpose().map_err(RestoreError::Prefault)?;

    let kvm = Kvm::new(files.kvm)?;
    let vm = Vm::new(&kvm, memory)?;
    let mut vcpus = Vec::new();
    let mut tsc_offset = None;
    for (id, processor) in (0..).zip(&state.processors) {
        let vcpu = vm.create_vcpu(id)?;
        tsc_offset = Some(vcpu.restore(processor, tsc_offset)?);
        vcpus.push(vcpu);
    }
    vm.restore_irqchips(&state.irqchips)?;
    if let (Some(prefault), Some(first)) = (prefault, vcpus.first()) {
        prefault.finish(&vm, first);
    }

    let mut disks = Disks::new(&config.disks, files.disks);
    let devices = Devices::restore(vm.memory(), files.vsock, &state.devices, &mut disks)?;
    let console = Console::restore(files.serial, &state.console).map_err(RestoreError::Console)?;
    let parts = Parts {
        kvm,
        vm,
        shape,
        vcpus,
        devices,
        console,
    };
    let mut machine = Machine::assemble(parts, state.clock, ending)?;
    machine.serve_disks(&config.disks)?;
    Ok(machine)
}
