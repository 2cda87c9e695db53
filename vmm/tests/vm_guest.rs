// SPDX-License-Identifier: Apache-2.0
//! What a guest can do to its machine, with a few bytes of machine code in place of a kernel:
//! end it in every way, flood its log, and touch everything that exits.
//!
//! The code runs in 64-bit mode, ring 0, at 0x1000200, with RSI pointing to the boot
//! parameters and interrupts off.

mod machine;

use std::thread;
use std::time::Duration;

use cube_vmm::exit::ExitReason;
use machine::{Guest, Machine, host_runs_guests};

/// `mov dx, 0x600; mov al, 0x34; out dx, al; jmp $`: S5 through ACPI's sleep control register.
const POWER_OFF: [u8; 9] = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe];

fn end_of(code: &[u8]) -> (ExitReason, String) {
    let mut machine = Machine::run(Guest::code(code));
    let end = machine.wait();
    (end, machine.log())
}

#[test]
fn every_way_to_end_has_its_reason() {
    if !host_runs_guests() {
        return;
    }
    let check = |code: &[u8], reason, log: &str| {
        let (end, written) = end_of(code);
        assert_eq!(end, reason, "{written}");
        assert_eq!(written, format!("cube-vmm: {log}\n"));
    };
    check(&POWER_OFF, ExitReason::Stopped, "the guest powered off");
    // mov dx, 0x604; mov al, 1; out dx, al; jmp $
    let reset = [0x66, 0xba, 0x04, 0x06, 0xb0, 0x01, 0xee, 0xeb, 0xfe];
    check(
        &reset,
        ExitReason::GuestReset,
        "the guest asked for a reset",
    );
    // mov al, 0xfe; out 0x64, al; jmp $
    let pulse = [0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];
    check(
        &pulse,
        ExitReason::GuestReset,
        "the guest asked for a reset",
    );
    // ud2, without an interrupt table
    let fault = [0x0f, 0x0b];
    check(
        &fault,
        ExitReason::GuestFault,
        "virtual processor 0 shut down",
    );
}

#[test]
fn the_console_shows_what_the_guest_writes() {
    if !host_runs_guests() {
        return;
    }
    // lea rsi, [rip + 15]; mov ecx, 6; mov dx, 0x3f8; rep outsb; then off; then the text
    let mut code = vec![0x48, 0x8d, 0x35, 20, 0, 0, 0, 0xb9, 6, 0, 0, 0];
    code.extend([0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e]);
    code.extend(POWER_OFF);
    code.extend(b"hello\n");
    let mut machine = Machine::run(Guest::code(&code));
    assert_eq!(machine.wait(), ExitReason::Stopped);
    assert_eq!(machine.serial(), "hello\n");
}

#[test]
fn a_paused_guest_stands_still_and_a_resumed_one_goes_on() {
    if !host_runs_guests() {
        return;
    }
    // mov dx, 0x3f8; again: mov al, 'x'; out dx, al; jmp again
    let endless = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee, 0xeb, 0xfb];
    let mut machine = Machine::run(Guest::code(&endless));
    machine.wait_for_serial("x");
    let written = |machine: &mut Machine| machine.client.stats().unwrap().serial_bytes;
    for _ in 0..200 {
        machine.client.pause().unwrap();
        machine.client.resume().unwrap();
    }
    machine.client.pause().unwrap();
    let before = written(&mut machine);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(written(&mut machine), before, "it ran while paused");
    machine.client.resume().unwrap();
    while written(&mut machine) == before {
        thread::sleep(Duration::from_millis(1));
    }
    let twice = machine.client.resume().unwrap_err().to_string();
    assert_eq!(
        twice,
        "the VMM could not resume: the machine is running already"
    );
    machine.client.quit().unwrap();
    assert_eq!(machine.wait(), ExitReason::Stopped);
}

#[test]
fn touching_every_register_at_every_width_ends_nothing() {
    if !host_runs_guests() {
        return;
    }
    let code = [ports(), windows(), strings(), POWER_OFF.to_vec()].concat();
    let (end, log) = end_of(&code);
    assert_eq!(end, ExitReason::Stopped, "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Reads and writes zero, one, two and four bytes wide, at all ports below 0x1000.
fn ports() -> Vec<u8> {
    let mut code = vec![0xba, 0, 0, 0, 0]; // mov edx, 0
    let again = code.len();
    code.extend([0xec, 0x66, 0xed, 0xed]); // in al, dx; in ax, dx; in eax, dx
    code.extend([0x31, 0xc0]); // xor eax, eax
    code.extend([0xee, 0x66, 0xef, 0xef]); // out dx, al; out dx, ax; out dx, eax
    code.extend([0xff, 0xc2]); // inc edx
    code.extend([0x81, 0xfa, 0x00, 0x10, 0x00, 0x00]); // cmp edx, 0x1000
    jump_back_if_below(&mut code, again);
    code
}

/// Reads and writes all ones, one to eight bytes wide, over the virtio windows and beyond, at
/// a step that meets every alignment.
fn windows() -> Vec<u8> {
    let mut code = vec![0xbf, 0xf0, 0xff, 0xff, 0xcf]; // mov edi, 0xcffffff0
    let again = code.len();
    code.extend([0x8a, 0x07, 0x66, 0x8b, 0x07]); // mov al, [rdi]; mov ax, [rdi]
    code.extend([0x8b, 0x07, 0x48, 0x8b, 0x07]); // mov eax, [rdi]; mov rax, [rdi]
    code.extend([0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff]); // mov rax, -1
    code.extend([0x88, 0x07, 0x66, 0x89, 0x07]); // mov [rdi], al; mov [rdi], ax
    code.extend([0x89, 0x07, 0x48, 0x89, 0x07]); // mov [rdi], eax; mov [rdi], rax
    code.extend([0x83, 0xc7, 13]); // add edi, 13
    code.extend([0x81, 0xff, 0x00, 0xc0, 0x00, 0xd0]); // cmp edi, 0xd000c000
    jump_back_if_below(&mut code, again);
    code
}

/// String instructions on the console's ports.
fn strings() -> Vec<u8> {
    let mut code = vec![0xbf, 0x00, 0x00, 0x10, 0x02]; // mov edi, 0x2100000
    code.extend([0xbe, 0x00, 0x00, 0x10, 0x02]); // mov esi, 0x2100000
    code.extend([0x66, 0xba, 0xfd, 0x03]); // mov dx, 0x3fd
    for instruction in [0x6c, 0x6d, 0x6e, 0x6f] {
        code.extend([0xb9, 0x00, 0x01, 0x00, 0x00]); // mov ecx, 256
        code.extend([0xf3, instruction]); // rep insb, insd, outsb, outsd
    }
    code
}

/// `jb again`
fn jump_back_if_below(code: &mut Vec<u8>, again: usize) {
    let distance = i32::try_from(code.len() + 6 - again).expect("a few bytes");
    code.extend([0x0f, 0x82]);
    code.extend((-distance).to_le_bytes());
}
