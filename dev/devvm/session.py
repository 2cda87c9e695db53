# SPDX-License-Identifier: Apache-2.0
"""The conversation with one development VM: streams, exit code, console, time-out."""

import json
import os
import queue
import socket
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

    def __init__(self, machine, request, console_file=None):
        self.machine, self.request = machine, request
        self.events = queue.Queue()
        self.console = bytearray()
        self.console_file = console_file
        self.deadline, self.limit = None, None

    def start(self, timeout=None):
        """Returns when the command is about to run; `timeout` counts from here and covers it too."""
        self.limit = timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        for job in (self._read_console, self._read_control, self._watch_qemu):
            self._thread(job)
        self.send(self.request)
        self._wait_for("started", BOOT_LIMIT_SECONDS)

    def finish(self):
        """Carries the streams and returns the command's exit code."""
        self._thread(self._copy_input)
        ports = self.machine.ports
        outputs = {name: Output(ports[name], stream, self.events) for name, stream in (("stdout", 1), ("stderr", 2))}
        result = self._wait_for("exit")
        for name, output in outputs.items():
            output.wait(result[name])
        return result["exit"]

    def send(self, message):
        self.machine.ports["control"].sendall(json.dumps(message).encode() + b"\n")

    def _wait_for(self, what, limit=None):
        left = None if self.deadline is None else max(0, self.deadline - time.monotonic())
        try:
            event = self.events.get(timeout=left if limit is None or (left is not None and left < limit) else limit)
        except queue.Empty:
            if self.deadline is None or time.monotonic() < self.deadline:
                raise Died(f"no command after {limit} s of booting") from None
            raise TimedOut(f"{self.limit:g} s were not enough for {self.request['argv']}") from None
        if "died" in event:
            raise Died(event["died"])
        if "status" in event:
            raise SystemExit(event["status"])
        assert what in event, f"expected {what}, got {event}"
        return event

    def _thread(self, function):
        threading.Thread(target=function, daemon=True).start()

    def _read_console(self):
        with open(self.console_file or os.devnull, "wb", buffering=0) as copy:
            while data := receive(self.machine.ports["console"]):
                copy.write(data)
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
            # One direction only: to the end of both, QEMU hangs up without reading what is under way.
            port.shutdown(socket.SHUT_WR)
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
