# SPDX-License-Identifier: Apache-2.0
"""The conversation with one development VM: streams, exit code, console, time-out."""

import json
import os
import queue
import socket
import sys
import threading
import time

BLOCK = 1 << 16
CONSOLE_KEPT = 1 << 18  # bytes: enough for several oopses with their traces
BOOT_LIMIT_SECONDS = 180
SIGPIPE_STATUS = 141


class Died(Exception):
    """The machine ended without the command having ended: its kernel panicked, or QEMU failed."""


class TimedOut(Exception):
    """The command, or the boot, took longer than allowed."""


class Session:
    """Runs one request in one machine."""

    def __init__(self, machine, request):
        self.machine, self.request = machine, request
        self.events = queue.Queue()
        self.console = bytearray()
        self.started = None

    def run(self, timeout=None):
        """Returns the command's exit code."""
        self._thread(self._read_console)
        self._thread(self._read_control)
        self._thread(self._watch_qemu)
        self.send(self.request)
        begun = time.monotonic()
        self._wait_for("started", BOOT_LIMIT_SECONDS if timeout is None else min(timeout, BOOT_LIMIT_SECONDS), "boot")
        self.started = time.monotonic() - begun
        self._thread(self._copy_input)
        outputs = [Output(self.machine.ports[name], stream, self.events)
                   for name, stream in (("stdout", 1), ("stderr", 2))]
        left = None if timeout is None else max(0, timeout - self.started)
        result = self._wait_for("exit", left, "command")
        outputs[0].wait(result["stdout"])
        outputs[1].wait(result["stderr"])
        return result["exit"]

    def send(self, message):
        self.machine.ports["control"].sendall(json.dumps(message).encode() + b"\n")

    def _wait_for(self, what, seconds, phase):
        try:
            event = self.events.get(timeout=seconds)
        except queue.Empty:
            raise TimedOut(f"{phase} took longer than {seconds:.0f} s") from None
        if "died" in event:
            raise Died(event["died"])
        if "status" in event:
            raise SystemExit(event["status"])
        assert what in event, f"expected {what}, got {event}"
        return event

    def _thread(self, function):
        threading.Thread(target=function, daemon=True).start()

    def _read_console(self):
        while data := receive(self.machine.console):
            self.console += data
            del self.console[:-CONSOLE_KEPT]

    def _read_control(self):
        rest = b""
        while data := receive(self.machine.ports["control"]):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.events.put(json.loads(line))

    def _watch_qemu(self):
        status = self.machine.qemu.wait()
        self.events.put({"died": f"QEMU ended with status {status}"})

    def _copy_input(self):
        port = self.machine.ports["stdin"]
        try:
            while data := os.read(0, BLOCK):
                port.sendall(data)
        except OSError:
            pass  # stdin is closed or not ours to read: the command sees the end of its input
        try:
            port.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the machine is already gone


class Output:
    """Copies one stream of the command to one of ours."""

    def __init__(self, port, stream, events):
        self.port, self.stream, self.events = port, stream, events
        self.copied = 0
        self.moved = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while data := receive(self.port):
            try:
                write_all(self.stream, data)
            except BrokenPipeError:
                self.events.put({"status": SIGPIPE_STATUS})
                return
            with self.moved:
                self.copied += len(data)
                self.moved.notify_all()

    def wait(self, count):
        """Until `count` bytes were copied."""
        with self.moved:
            self.moved.wait_for(lambda: self.copied >= count)


def receive(port):
    try:
        return port.recv(BLOCK)
    except OSError:
        return b""


def write_all(stream, data):
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view):]
