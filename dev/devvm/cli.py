# SPDX-License-Identifier: Apache-2.0
"""The command line of dev/vm."""

import argparse
import os
import signal
import sys
from pathlib import Path

from places import CACHE, CHECKOUT, Missing

from . import disk
from .kernel import Kernel
from .machine import Machine
from .session import Died, Session, TimedOut

EXIT_TIMED_OUT = 124  # as timeout(1)
EXIT_VM_FAILED = 125  # the VM, not the command
PASSED_PREFIXES = ("CUBE_", "RUST_", "LC_")
PASSED_NAMES = ("CI", "HOME", "LANG", "TERM", "NO_COLOR")


def main():
    options = parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    try:
        return run(options)
    except Missing as error:
        return fail(error)
    except disk.Busy as error:
        return fail(error)
    except KeyboardInterrupt:
        return 130


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="dev/vm",
        usage="dev/vm [OPTION]... COMMAND [ARGUMENT]...",
        description="Runs a command in the development VM: the host's files, a real /dev/kvm, nothing written back.",
        epilog=f"Exit code: the command's; {EXIT_TIMED_OUT} if it ran out of time; "
        f"{EXIT_VM_FAILED} if the VM itself failed (its kernel panicked, or it did not boot).",
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="end the VM after so long (default: never)")
    parser.add_argument("--memory", type=int, default=6144, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="default: %(default)s")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--keep", metavar="NAME", help="keep the disk of this name from run to run")
    keep.add_argument("--disk", type=Path, metavar="PATH", help="the same, as a file of yours")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no command given")
    return options


def run(options):
    kernel = Kernel()
    kept = options.disk or (CACHE / "disks" / f"kept-{options.keep}.xfs" if options.keep else None)
    request = {
        "argv": options.command, "cwd": os.getcwd(), "env": environment(), "tty": False, "size": None,
        "keep_disk": kept is not None,
    }
    descriptor = disk.kept(kept) if kept else disk.fresh()
    machine = Machine(kernel, descriptor, options.cpus, options.memory)
    try:
        session = Session(machine, request)
        return session.run(options.timeout)
    except TimedOut as error:
        print(f"dev/vm: {error}", file=sys.stderr)
        return EXIT_TIMED_OUT
    except Died as error:
        show_console(session, machine)
        return fail(f"THE DEVELOPMENT VM FAILED, not the command: {error}")
    finally:
        machine.close()


def environment():
    """The command's environment: little of ours, with our own programs first on the path."""
    profile = "debug" if os.environ.get("CUBE_PROFILE") == "debug" else "release"
    kept = {name: value for name, value in os.environ.items()
            if name in PASSED_NAMES or name.startswith(PASSED_PREFIXES)}
    kept["PATH"] = f"{CHECKOUT}/target/{profile}:{os.environ.get('PATH', os.defpath)}"
    return kept


def show_console(session, machine):
    for line in machine.trouble():
        print(f"qemu: {line}", file=sys.stderr)
    print("--- console of the development VM", file=sys.stderr)
    sys.stderr.write(session.console.decode(errors="replace")[-8192:])
    print("\n---", file=sys.stderr)


def fail(reason):
    print(f"dev/vm: {reason}", file=sys.stderr)
    return EXIT_VM_FAILED
