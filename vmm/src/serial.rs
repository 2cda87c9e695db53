// SPDX-License-Identifier: Apache-2.0
//! The serial console: an 8250 whose output goes to a log file of bounded size. It has no
//! input.
//!
//! The guest decides what is written and how much, so the file keeps its beginning (the boot)
//! and its end (the panic): when it is full, the part between the two is cut out.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, SerialState, Trigger};

use crate::bus::Registers;

/// The most that a guest can make the log hold: some ten verbose boots.
pub(crate) const LOG_MAX: u64 = 1 << 20;
/// Of which so much is never cut: more than one verbose boot.
const LOG_KEPT: u64 = 256 << 10;

/// The serial console.
pub(crate) struct Console {
    interrupt: OwnedFd,
    uart: Mutex<Serial<Line, NoEvents, BoundedLog>>,
}

impl Console {
    /// A console that writes to `log`.
    pub fn new(log: OwnedFd) -> io::Result<Arc<Self>> {
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let line = Line(interrupt.try_clone()?);
        let uart = Serial::new(line, BoundedLog::new(File::from(log)));
        Ok(Arc::new(Self {
            interrupt,
            uart: Mutex::new(uart),
        }))
    }

    /// The saved console, whose output goes on in `log`. An interrupt that was pending is raised again.
    pub fn restore(log: OwnedFd, state: &ConsoleState) -> io::Result<Arc<Self>> {
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let line = Line(interrupt.try_clone()?);
        let log = BoundedLog::new(File::from(log));
        let uart = Serial::from_state(&state.registers(), line, NoEvents, log)
            .map_err(|error| io::Error::other(format!("its registers do not fit: {error:?}")))?;
        Ok(Arc::new(Self {
            interrupt,
            uart: Mutex::new(uart),
        }))
    }

    /// The console's registers.
    pub fn save(&self) -> ConsoleState {
        ConsoleState::of(self.lock().state())
    }

    /// The interrupt, for an irqfd.
    pub fn irq(&self) -> BorrowedFd<'_> {
        self.interrupt.as_fd()
    }

    /// Bytes the guest wrote so far, and how many of them are no longer in the log.
    pub fn counts(&self) -> (u64, u64) {
        let uart = self.lock();
        let log = uart.writer();
        (log.written, log.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Line, NoEvents, BoundedLog>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registers of a saved console. It has no input, so its buffer holds what the guest put there
/// itself, in loopback mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConsoleState {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    input: Vec<u8>,
}

impl ConsoleState {
    fn of(state: SerialState) -> Self {
        Self {
            baud_divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            input: state.in_buffer,
        }
    }

    fn registers(&self) -> SerialState {
        let [baud_divisor_low, baud_divisor_high] = self.baud_divisor;
        SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.input.clone(),
        }
    }
}

/// The registers are one byte wide; wider accesses reach the first one only.
impl Registers for Arc<Console> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (Ok(offset), Some(first)) = (u8::try_from(offset), data.first_mut()) {
            *first = self.lock().read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Some(value)) = (u8::try_from(offset), data.first()) {
            // The log never fails, and an interrupt that is already pending is none to lose;
            // in loopback mode the guest may overfill its own input buffer.
            if let Err(error) = self.lock().write(offset, *value) {
                tracing::debug!(?error, "the serial console dropped a byte");
            }
        }
    }
}

/// The interrupt line of the console.
struct Line(OwnedFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // A full counter is an interrupt that is already pending.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file that keeps its first [`LOG_KEPT`] bytes and what comes last, [`LOG_MAX`] at most.
struct BoundedLog {
    file: File,
    /// Bytes in the file that are ours.
    length: u64,
    written: u64,
    dropped: u64,
}

impl BoundedLog {
    fn new(file: File) -> Self {
        // Something that is no file (a terminal, a pipe) has no length and is not cut.
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        Self {
            file,
            length,
            written: 0,
            dropped: 0,
        }
    }

    /// Cuts the file back to its beginning, and says so in it.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(LOG_KEPT)?;
        self.dropped += self.length.saturating_sub(LOG_KEPT);
        self.length = LOG_KEPT;
        let note = format!("\n[{} bytes were cut out here]\n", self.dropped);
        self.file.write_all(note.as_bytes())?;
        self.length += note.len() as u64;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > LOG_MAX {
            self.cut()?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// Never fails: a full disk costs the guest its log, not its console.
impl Write for BoundedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        if self.append(bytes).is_err() {
            self.dropped += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    fn appending() -> (File, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = File::options().append(true).open(file.path()).unwrap();
        (log, file)
    }

    fn content(file: &mut tempfile::NamedTempFile) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_the_guest_transmits_is_in_the_log() {
        let (log, mut file) = appending();
        let console = Console::new(log.into()).unwrap();
        for byte in b"hello\n" {
            console.write(0, &[*byte]);
        }
        assert_eq!(content(&mut file), "hello\n");
        assert_eq!(console.counts(), (6, 0));
    }

    #[test]
    fn a_restored_console_is_the_saved_one() {
        let (log, mut file) = appending();
        let console = Console::new(log.try_clone().unwrap().into()).unwrap();
        // Interrupts on, loopback mode, and two bytes in the buffer.
        for (register, value) in [
            (1, 0x0f),
            (3, 3),
            (4, 0x1f),
            (7, 0x5a),
            (0, b'a'),
            (0, b'b'),
        ] {
            console.write(register, &[value]);
        }
        let state = console.save();
        assert_eq!(state.input, b"ab");
        let restored = Console::restore(log.into(), &state).unwrap();
        assert_eq!(restored.save(), state);
        restored.write(4, &[0]);
        restored.write(0, b"c");
        assert_eq!(content(&mut file), "c");
    }

    #[test]
    fn registers_that_no_console_has_are_refused() {
        let (log, _file) = appending();
        let mut state = Console::new(log.try_clone().unwrap().into())
            .unwrap()
            .save();
        state.input = vec![0; 1000];
        assert!(Console::restore(log.into(), &state).is_err());
    }

    #[test]
    fn a_flood_keeps_the_beginning_and_the_end() {
        let (log, mut file) = appending();
        let mut log = BoundedLog::new(log);
        let line = [b'x'; 1023];
        for number in 0..4096u32 {
            log.write_all(&line).unwrap();
            log.write_all(&[b'0' + (number % 10) as u8]).unwrap();
        }
        log.write_all(b"kernel panic").unwrap();
        let text = content(&mut file);
        assert!(text.len() as u64 <= LOG_MAX, "{}", text.len());
        assert!(text.starts_with("xxxx") && text.ends_with("kernel panic"));
        assert_eq!(text.matches("bytes were cut out here").count(), 1);
        assert_eq!(log.written, 4 << 20 | 12);
    }

    #[test]
    fn a_full_disk_drops_and_goes_on() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut log = BoundedLog::new(full);
        log.write_all(b"lost").unwrap();
        assert_eq!((log.written, log.dropped), (4, 4));
    }

    #[test]
    fn any_access_to_any_register_is_harmless() {
        let (log, _file) = appending();
        let console = Console::new(log.into()).unwrap();
        for offset in (0..10).chain([255, 256, u64::MAX]) {
            for value in 0..=255 {
                console.write(offset, &[value]);
                console.read(offset, &mut [0; 4]);
            }
            console.write(offset, &[]);
            console.read(offset, &mut []);
        }
    }
}
