# SPDX-License-Identifier: Apache-2.0
"""PID 1 of the development VM: runs the one command that the host asked for.

The conversation is on four virtio-serial ports. `cube.control` carries one JSON object a line: the
request from the host, then `started` and `exit` back. The other three are the command's bare
streams. `exit` says how many bytes each output stream carried, so the host knows when it has all.

If this program fails, the kernel panics because init died, and the host says so with the traceback.
"""

import fcntl
import json
import os
import select
import struct
import sys
import termios
import threading

BLOCK = 1 << 16


def main():
    ports = find_ports()
    control = open(ports["cube.control"], "r+b", buffering=0)
    lines = read_lines(control)
    request = json.loads(next(lines))
    out, err = (os.open(ports[f"cube.{name}"], os.O_WRONLY) for name in ("stdout", "stderr"))
    stdin = os.open(ports["cube.stdin"], os.O_RDONLY)
    say(control, {"started": True})

    child, (to_child, from_child, errors) = (spawn_on_terminal if request["tty"] else spawn)(request)
    gone, child_lives = os.pipe()
    start(copy_input, stdin, to_child, request["tty"])
    start(resize_on_request, lines, to_child if request["tty"] else None)
    pumps = [Pump(from_child, out, gone)] + ([Pump(errors, err, gone)] if errors is not None else [])
    status = reap_until(child)
    os.close(child_lives)
    for pump in pumps:
        pump.join()
    if request["keep_disk"]:
        release_disk()
    counts = [pump.copied for pump in pumps] + [0]
    say(control, {"exit": status, "stdout": counts[0], "stderr": counts[1]})
    while True:  # the host ends the machine
        reap_until(-1)
        threading.Event().wait(1)


def find_ports():
    """Port name -> device, since the kernel numbers devices as it finds them."""
    root = "/sys/class/virtio-ports"
    names = {}
    for device in os.listdir(root):
        with open(f"{root}/{device}/name") as file:
            names[file.read().strip()] = f"/dev/{device}"
    return names


def read_lines(control):
    rest = b""
    while data := control.read(BLOCK):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def say(control, message):
    control.write(json.dumps(message).encode() + b"\n")


def start(function, *arguments):
    threading.Thread(target=function, args=arguments, daemon=True).start()


def spawn(request):
    """Returns the child's PID and our ends of its stdin, stdout and stderr."""
    (child_in, to_child), (from_child, child_out), (errors, child_err) = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        become(request, child_in, child_out, child_err)
    for end in (child_in, child_out, child_err):
        os.close(end)
    return child, (to_child, from_child, errors)


def spawn_on_terminal(request):
    """As `spawn`, on a new terminal: one descriptor for both directions, no stderr of its own."""
    ours, theirs = os.openpty()
    set_size(ours, request["size"])
    child = os.fork()
    if child == 0:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        become(request, theirs, theirs, theirs)
    os.close(theirs)
    return child, (ours, ours, None)


def become(request, *streams):
    """Turns this forked process into the command; the exit codes are the shell's."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    code, argv = 127, request["argv"]
    try:
        os.chdir(request["cwd"])
        os.execvpe(argv[0], argv, request["env"])
    except PermissionError as error:
        code, reason = 126, error
    except OSError as error:
        reason = error
    finally:
        os.write(2, f"dev/vm: cannot run {argv[0]} in {request['cwd']}: {reason.strerror}\n".encode())
        os._exit(code)


def copy_input(port, to_child, is_terminal):
    """Host to command. The end of the host's stdin closes the command's; a terminal has no end."""
    try:
        while data := os.read(port, BLOCK):
            write_all(to_child, data)
    except OSError:
        return  # the command no longer reads; whatever else is typed is for nobody
    if not is_terminal:
        os.close(to_child)


class Pump(threading.Thread):
    """Copies one output stream to its port until it ends, or the command has and nothing is left.

    The second case is a background process that keeps the stream open: it is not waited for.
    """

    def __init__(self, source, port, gone):
        super().__init__(daemon=True)
        self.source, self.port, self.gone = source, port, gone
        self.copied = 0
        self.start()

    def run(self):
        poll = select.poll()
        poll.register(self.source, select.POLLIN)
        poll.register(self.gone, select.POLLHUP)
        while True:
            ready = dict(poll.poll())
            if self.source not in ready:
                return
            try:
                data = os.read(self.source, BLOCK)
            except OSError:  # EIO: the last process left the terminal
                return
            if not data:
                return
            write_all(self.port, data)
            self.copied += len(data)


def write_all(descriptor, data):
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view):]


def resize_on_request(lines, terminal):
    for line in lines:
        message = json.loads(line)
        if terminal is not None and "size" in message:
            set_size(terminal, message["size"])


def set_size(terminal, size):
    rows, columns = size
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def reap_until(child):
    """Collects every process that ends, as PID 1 must, until `child` does; its shell-style status."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return None
        if pid == child:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def release_disk():
    """Ends everything that may hold the disk and unmounts it, so a kept disk is clean."""
    import signal
    import subprocess

    os.kill(-1, signal.SIGKILL)
    reap_until(None)
    subprocess.run(["umount", "--recursive", "/var/lib/cube"], check=False)
    os.sync()


if os.getpid() != 1:
    sys.exit("this is the development VM's init; run dev/vm")
main()
