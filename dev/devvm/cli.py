# SPDX-License-Identifier: Apache-2.0
"""The command line of dev/vm."""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from places import CACHE, CHECKOUT, RESULTS, Missing

from . import disk, terminal
from .kernel import Kernel
from .machine import Machine
from .session import Died, Session, TimedOut

EXIT_TIMED_OUT = 124  # as timeout(1)
EXIT_VM_FAILED = 125  # the VM, not the command
EXIT_NOT_RUN = 2
PASSED_PREFIXES = ("CUBE_", "RUST_", "LC_")
PASSED_NAMES = ("CI", "HOME", "LANG", "TERM", "NO_COLOR")
SHELL = ["bash", "-i"]

DESCRIPTION = """\
Runs a command in the development VM: the host's files at the same paths, a
real /dev/kvm, programs of target/release first on the PATH, root. What it
writes is gone afterwards, except below target/results. `dev/vm shell` is an
interactive shell."""
EPILOG = f"""\
Exit code: the command's; {EXIT_TIMED_OUT} if it ran out of time; {EXIT_VM_FAILED} if the VM itself failed
(its kernel panicked, or it did not boot), which is said loudly.
CUBE_PROFILE=debug puts target/debug on the PATH instead."""


def main():
    options = parse(sys.argv[1:])
    open_closed_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    try:
        return run(options)
    except (Missing, disk.Busy) as error:
        print(f"dev/vm: {error}", file=sys.stderr)
        return EXIT_NOT_RUN
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def open_closed_streams():
    """A stream that was closed before us would become a descriptor of something else."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="dev/vm", usage="dev/vm [OPTION]... COMMAND [ARGUMENT]...\n       dev/vm [OPTION]... shell",
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--timeout", type=float, metavar="SECONDS", help="end the VM after so long (default: never)")
    add("--memory", type=int, default=6144, metavar="MIB", help="default: %(default)s")
    # One: with more, TCG switches between them in the middle of a guest, and then QEMU 7.2 at times delivers
    # the interrupt that KVM injected a second time, inside its own handler. Guests deadlock. One host thread
    # runs all CPUs anyway (thread=single), so nothing is lost.
    add("--cpus", type=int, default=1, metavar="N", help="default: %(default)s (guests hang with more)")
    add("--publish", type=int, action="append", default=[], metavar="PORT",
        help="forward the host's 127.0.0.1:PORT to the VM; may be repeated")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--keep", metavar="NAME", help="keep the disk (/var/lib/cube) of this name from run to run")
    keep.add_argument("--disk", type=Path, metavar="PATH", help="the same, as a file of yours")
    add("--tty", action="store_true", help="give the command a terminal (the default for shell)")
    add("--console", type=Path, metavar="FILE", help="also write the console of the VM's kernel there")
    add("--verbose", action="store_true", help="say how long the boot took")
    up = parser.add_argument_group("with containerd (dev/up)")
    up.add_argument("--up", action="store_true", help="first start our snapshotter and containerd, import images")
    for name in ("containerd", "images", "snapshotters"):
        up.add_argument(f"--{name}", metavar="NAME", help="as for dev/up; implies --up")
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no command given")
    return options


def run(options):
    begun = time.monotonic()
    kernel = Kernel()
    kept = options.disk or (CACHE / "disks" / f"kept-{options.keep}.xfs" if options.keep else None)
    request = build_request(options, kept is not None)
    descriptor = disk.kept(kept) if kept else disk.fresh()
    machine = Machine(kernel, descriptor, options.cpus, options.memory, options.publish)
    session = Session(machine, request, options.console)
    try:
        session.start(options.timeout)
        if options.verbose:
            print(f"dev/vm: running after {time.monotonic() - begun:.1f} s", file=sys.stderr)
        with terminal.raw(session) if request["tty"] else terminal.untouched():
            return session.finish()
    except TimedOut as error:
        print(f"dev/vm: TIMED OUT: {error}", file=sys.stderr)
        return EXIT_TIMED_OUT
    except Died as error:
        show_console(session, machine)
        print(f"dev/vm: THE DEVELOPMENT VM FAILED, not the command: {error}", file=sys.stderr)
        return EXIT_VM_FAILED
    finally:
        machine.close()


def build_request(options, keep_disk):
    """What the guest's pid1.py is told."""
    command, tty = options.command, options.tty
    if command == ["shell"]:
        command, tty = SHELL, os.isatty(0)
    up = [word for name in ("containerd", "images", "snapshotters") if getattr(options, name)
          for word in (f"--{name}", getattr(options, name))]
    if options.up or up:
        command = [f"{CHECKOUT}/dev/up", "--state", "/var/lib/cube", "--run", "/run/cube", *up, "--", *command]
    size = shutil.get_terminal_size()
    return {
        "argv": command, "cwd": os.getcwd(), "env": environment(), "keep_disk": keep_disk,
        "tty": tty, "size": [size.lines, size.columns],
    }


def environment():
    """The command's environment: little of ours, with our own programs first on the path."""
    profile = "debug" if os.environ.get("CUBE_PROFILE") == "debug" else "release"
    kept = {name: value for name, value in os.environ.items()
            if name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)}
    kept["PATH"] = f"{CHECKOUT}/target/{profile}:{os.environ.get('PATH', os.defpath)}"
    kept["CUBE_DEV_VM"] = "1"
    kept["CUBE_RESULTS"] = str(RESULTS)
    return kept


def show_console(session, machine):
    for line in machine.trouble():
        print(f"dev/vm: {line}", file=sys.stderr)
    print("--- the end of the VM's console", file=sys.stderr)
    sys.stderr.write(session.console.decode(errors="replace")[-8192:])
    print("\n---", file=sys.stderr)
