// SPDX-License-Identifier: Apache-2.0
//! Writing a machine that stands into files: the counterpart of `restore`.
//!
//! The processors stand, and no device works for as long as this takes, so state and memory are of one
//! instant. Each device is stopped for its queues and started again (`MmioTransport::save`), so the
//! machine can go on afterwards as if nothing had been.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use cube_hv::{GuestMemory, KvmError, VcpuError, VmError};
use cube_snapshot::envelope::WriteError;
use cube_snapshot::working_set::{Run, WorkingSet};
use rustix::fs::{FallocateFlags, fallocate};
use thiserror::Error;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::control::SaveFiles;
use crate::machine::Machine;
use crate::pagemap::{PAGE, PAGE_BYTES, Page, Pagemap, Pages};
use crate::state::MachineState;

/// Pages that are copied at once.
const CHUNK_PAGES: usize = 256;

/// Why a machine was not saved. It is as it was before.
#[derive(Debug, Error)]
pub(crate) enum SaveError {
    /// It runs.
    #[error("the machine is running; it has to be paused first")]
    Running,
    /// KVM does not say what there is to save.
    #[error("KVM cannot save processors")]
    Kvm(#[from] KvmError),
    /// A processor.
    #[error("a virtual processor could not be saved")]
    Vcpu(#[from] VcpuError),
    /// Interrupt controllers.
    #[error("the interrupt controllers could not be saved")]
    Vm(#[from] VmError),
    /// The state file.
    #[error("the state file was not written")]
    State(#[source] WriteError),
    /// The memory file.
    #[error("the memory file was not written")]
    Memory(#[source] io::Error),
    /// The working set's file.
    #[error("the file of the working set was not written")]
    WorkingSet(#[source] WriteError),
    /// The pagemap.
    #[error("the touched pages could not be told")]
    Pagemap(#[source] io::Error),
}

/// Writes the machine.
pub(crate) fn save(machine: &Machine, files: SaveFiles) -> Result<(), SaveError> {
    let Some(clock) = machine.stood_at() else {
        return Err(SaveError::Running);
    };
    let _still = machine.hold_devices();
    let msrs = machine.kvm.msrs()?;
    let processors = machine.vcpus.iter().map(|vcpu| vcpu.save(&msrs));
    let state = MachineState {
        vcpus: machine.shape.vcpus(),
        memory_mib: machine.shape.memory_mib(),
        processors: processors.collect::<Result<_, _>>()?,
        irqchips: machine.vm.save_irqchips()?,
        clock,
        devices: machine.devices.save(),
        console: machine.console.save(),
    };
    state.write(files.state).map_err(SaveError::State)?;
    let pagemap = Pagemap::new(files.pagemap);
    write_memory(machine.vm.memory(), files.memory, &pagemap).map_err(SaveError::Memory)
}

/// Writes down which pages have been touched so far.
pub(crate) fn working_set(
    machine: &Machine,
    into: OwnedFd,
    pagemap: OwnedFd,
) -> Result<(), SaveError> {
    let mut set = WorkingSet::default();
    let mut note = |page, pages: Pages| {
        let run = run(pages)?;
        match page {
            Page::Absent => {}
            Page::Shared => set.read.push(run),
            Page::Own => set.written.push(run),
        }
        Ok(())
    };
    Pagemap::new(pagemap)
        .walk(machine.vm.memory(), &mut note)
        .map_err(SaveError::Pagemap)?;
    set.write(&mut File::from(into))
        .map_err(SaveError::WorkingSet)
}

fn run(pages: Pages) -> io::Result<Run> {
    let number = |value: u64| u32::try_from(value).map_err(io::Error::other);
    Ok(Run {
        first: number(pages.start)?,
        pages: number(pages.end - pages.start)?,
    })
}

/// Writes every page that is the machine's own over what the file has: nothing, or the memory that
/// the machine was restored from.
fn write_memory(memory: &GuestMemory, file: OwnedFd, pagemap: &Pagemap) -> io::Result<()> {
    let file = File::from(file);
    file.set_len(memory.iter().map(GuestMemoryRegion::len).sum())?;
    let mut buffer = vec![0; CHUNK_PAGES * PAGE_BYTES];
    pagemap.walk(memory, |page, pages| {
        if page != Page::Own {
            return Ok(());
        }
        let mut start = pages.start;
        while start < pages.end {
            let end = pages.end.min(start + CHUNK_PAGES as u64);
            let bytes = usize::try_from((end - start) * PAGE).map_err(io::Error::other)?;
            let chunk = buffer.get_mut(..bytes).unwrap_or_default();
            read_pages(memory, start, chunk)?;
            write_pages(&file, start * PAGE, chunk)?;
            start = end;
        }
        Ok(())
    })
}

/// Reads guest memory by its place in the file.
fn read_pages(memory: &GuestMemory, page: u64, chunk: &mut [u8]) -> io::Result<()> {
    let mut offset = page * PAGE;
    for region in memory.iter() {
        if offset < region.len() {
            return region
                .read_slice(chunk, MemoryRegionAddress(offset))
                .map_err(io::Error::other);
        }
        offset -= region.len();
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Writes whole pages; those that are zero become holes, which is what most files have there already.
fn write_pages(file: &File, offset: u64, chunk: &[u8]) -> io::Result<()> {
    let is_zero = |page: &[u8; PAGE_BYTES]| page.iter().all(|byte| *byte == 0);
    let mut at = offset;
    for run in chunk
        .as_chunks::<PAGE_BYTES>()
        .0
        .chunk_by(|a, b| is_zero(a) == is_zero(b))
    {
        let bytes = run.as_flattened();
        if run.first().is_some_and(is_zero) {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, hole, at, bytes.len() as u64)?;
        } else {
            file.write_all_at(bytes, at)?;
        }
        at += bytes.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    const RANGES: [(u64, u64); 2] = [(0, 0x10_0000), (0x1_0000_0000, 0x10_0000)];

    fn pagemap() -> Pagemap {
        Pagemap::new(File::open("/proc/self/pagemap").unwrap().into())
    }

    fn saved(memory: &GuestMemory, file: &File) {
        write_memory(memory, file.try_clone().unwrap().into(), &pagemap()).unwrap();
    }

    fn blocks(file: &File) -> u64 {
        use std::os::unix::fs::MetadataExt;
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn a_chain_of_memories_keeps_every_page() {
        let first = tempfile::tempfile().unwrap();
        let memory = cube_hv::memory::allocate(&RANGES).unwrap();
        let write = |memory: &GuestMemory, at: u64, byte: u8| {
            memory.write_slice(&[byte; 4096], GuestAddress(at)).unwrap();
        };
        write(&memory, 0x3000, 1);
        write(&memory, 0x1_0000_0000, 2);
        write(&memory, 0x5000, 3);
        saved(&memory, &first);

        let mut previous = first;
        for depth in 10..13 {
            let memory =
                cube_hv::memory::map(previous.try_clone().unwrap().into(), &RANGES).unwrap();
            write(&memory, 0x3000 + u64::from(depth) * 0x1000, depth);
            write(&memory, 0x5000, 0);
            let next = tempfile::tempfile().unwrap();
            // What a clone of the file would be.
            let mut content = vec![0; 0x20_0000];
            previous.read_exact_at(&mut content, 0).unwrap();
            next.write_all_at(&content, 0).unwrap();
            saved(&memory, &next);
            previous = next;
        }
        let byte = |at: u64| {
            let mut byte = [0];
            previous.read_exact_at(&mut byte, at).unwrap();
            byte[0]
        };
        assert_eq!((byte(0x3000), byte(0x10_0000), byte(0x5000)), (1, 2, 0));
        assert_eq!((byte(0xd000), byte(0xe000), byte(0xf000)), (10, 11, 12));
    }

    #[test]
    fn the_file_is_sparse() {
        let file = tempfile::tempfile().unwrap();
        let memory = cube_hv::memory::allocate(&RANGES).unwrap();
        // Touched and zero: as good as never touched.
        memory.write_slice(&[0; 0x8_0000], GuestAddress(0)).unwrap();
        memory
            .write_slice(&[1; 0x1000], GuestAddress(0x4000))
            .unwrap();
        saved(&memory, &file);
        assert_eq!(file.metadata().unwrap().len(), 0x20_0000);
        assert!(blocks(&file) <= 0x1_0000, "{}", blocks(&file));
    }
}
