// SPDX-License-Identifier: Apache-2.0
//! The thread of one virtual processor.
//!
//! It alternates between two states, each a function that returns what is wanted next:
//! [`Processor::run`] executes the guest and routes its exits to the buses, and
//! [`Gate::stand`] waits. While it runs it holds the processor's lock, while it stands anybody may
//! take it to look at the processor's state. It knows no port and no address; what an exit means is the bus's
//! matter. It ends when the gate says so or when the guest cannot go on, which it announces.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use cube_hv::{Exit, Kicker, Vcpu, VcpuError, VcpuState};

use crate::bus::Bus;
use crate::end::{End, Ending, Failure};
use crate::gate::{Gate, Wanted};

/// Device emulation is shallow and keeps nothing large on the stack.
const STACK_BYTES: usize = 128 << 10;

/// The two address spaces of a guest's accesses.
#[derive(Debug)]
pub(crate) struct Buses {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub memory: Bus,
}

/// A running processor thread, as the machine holds it.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    kicker: Kicker,
    exits: Arc<AtomicU64>,
    vcpu: Arc<Mutex<Vcpu>>,
    thread: JoinHandle<()>,
}

impl VcpuThread {
    /// Starts the thread; it stands until the gate opens.
    pub fn spawn(
        vcpu: Vcpu,
        buses: Arc<Buses>,
        gate: Arc<Gate>,
        ending: Ending,
    ) -> io::Result<Self> {
        let kicker = vcpu.kicker();
        let exits = Arc::new(AtomicU64::new(0));
        let name = format!("vcpu{}", vcpu.id());
        let vcpu = Arc::new(Mutex::new(vcpu));
        let processor = Processor {
            vcpu: Arc::clone(&vcpu),
            buses,
            gate,
            ending,
            exits: Arc::clone(&exits),
        };
        let thread = thread::Builder::new()
            .name(name)
            .stack_size(STACK_BYTES)
            .spawn(move || processor.live())?;
        Ok(Self {
            kicker,
            exits,
            vcpu,
            thread,
        })
    }

    /// The state of the processor, which must stand.
    pub fn save(&self, msrs: &[u32]) -> Result<VcpuState, VcpuError> {
        lock(&self.vcpu).save(msrs)
    }

    /// Makes the processor look at the gate.
    pub fn kick(&self) {
        self.kicker.kick();
    }

    /// How often it left the guest.
    pub fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// Waits for its end, which the gate must have asked for.
    pub fn join(self) {
        // A panic has ended the whole process through the panic hook.
        drop(self.thread.join());
    }
}

struct Processor {
    vcpu: Arc<Mutex<Vcpu>>,
    buses: Arc<Buses>,
    gate: Arc<Gate>,
    ending: Ending,
    exits: Arc<AtomicU64>,
}

impl Processor {
    fn live(mut self) {
        lock(&self.vcpu).adopt_thread();
        let mut wanted = self.gate.wanted();
        let end = loop {
            let next = match wanted {
                Wanted::Run => self.run(),
                Wanted::Stand => self.stand(),
                Wanted::End => break None,
            };
            match next {
                Ok(next) => wanted = next,
                Err(end) => break Some(end),
            }
        };
        // Leaving first: whoever reacts to the end does not wait for this processor.
        self.gate.leave();
        if let Some(end) = end {
            self.ending.announce(end);
        }
    }

    /// Executes the guest until something else is wanted.
    fn run(&mut self) -> Result<Wanted, End> {
        let mut vcpu = lock(&self.vcpu);
        loop {
            let exit = vcpu.run().map_err(|error| End::Failed(error.into()))?;
            self.exits.fetch_add(1, Ordering::Relaxed);
            match exit {
                Exit::PioRead { port, width, data } => {
                    for element in elements_mut(data, width) {
                        self.buses.ports.read(u64::from(port), element);
                    }
                }
                Exit::PioWrite { port, width, data } => {
                    for element in data.chunks(usize::from(width.max(1))) {
                        self.buses.ports.write(u64::from(port), element);
                    }
                }
                Exit::MmioRead { address, data } => self.buses.memory.read(address, data),
                Exit::MmioWrite { address, data } => self.buses.memory.write(address, data),
                Exit::Kicked => match self.gate.wanted() {
                    Wanted::Run => {}
                    other => return Ok(other),
                },
                Exit::Shutdown => {
                    let vcpu = vcpu.id();
                    return Err(End::Shutdown { vcpu });
                }
            }
        }
    }

    fn stand(&mut self) -> Result<Wanted, End> {
        let wanted = self.gate.stand();
        if wanted == Wanted::Run {
            lock(&self.vcpu)
                .forgive_pause()
                .map_err(|error| End::Failed(Failure::Resume(error)))?;
        }
        Ok(wanted)
    }
}

/// A panic of another thread has ended the whole process through the panic hook.
fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A string instruction reads many elements from one port.
fn elements_mut(data: &mut [u8], width: u8) -> impl Iterator<Item = &mut [u8]> {
    data.chunks_mut(usize::from(width.max(1)))
}
