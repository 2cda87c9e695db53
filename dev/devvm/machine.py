# SPDX-License-Identifier: Apache-2.0
"""The processes of one development VM: a file server for each share, QEMU for the machine.

QEMU's flags are a recipe in which each was tried; the reasons are beside those that surprise.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess

from places import RESULTS, Missing

from . import share

ADDRESS = "10.0.2.15/24"  # where QEMU's user network forwards to
PORTS = ("control", "stdin", "stdout", "stderr")
# What the programs always say, whether all is well or not.
NOISE = ("TCG doesn't support requested feature", "Unexpected poll revents 11")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None)


class Machine:
    """A running QEMU and its file servers. Closing it kills them; so does our own death."""

    def __init__(self, kernel, disk, cpus, memory_mib, publish=()):
        self.processes = []
        self.ports = {}
        self.inherited = [disk]  # descriptors that QEMU uses: ours to close once it has them
        self.messages = os.memfd_create("messages")  # what the programs say, shown when they fail
        try:
            command = [qemu(), *machine(cpus, memory_mib), *self._boot(kernel, ADDRESS if publish else "")]
            # A file under /proc/self/fd: QEMU opens it anew, so it may be one without a name.
            command += ["-drive", f"file=/proc/self/fd/{disk},if=virtio,format=raw,cache=unsafe,discard=unmap"]
            RESULTS.mkdir(parents=True, exist_ok=True)
            command += self._share("hostroot", "/", "always") + self._share("results", RESULTS, "auto")
            command += self._serial_ports() + network(publish)
            self.qemu = self._spawn(command, self.inherited)
        except BaseException:
            self.close()
            raise
        finally:
            for descriptor in self.inherited:
                os.close(descriptor)

    def _boot(self, kernel, address):
        initramfs = os.memfd_create("initramfs")
        self.inherited.append(initramfs)
        with open(initramfs, "wb", closefd=False) as file:
            file.write(kernel.initramfs(address))
        # panic=-1 with -no-reboot: a panic ends QEMU at once, and an oops is a panic here.
        words = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off apparmor=0"
        return ["-kernel", kernel.vmlinux, "-initrd", f"/proc/self/fd/{initramfs}", "-append", words]

    def _share(self, tag, directory, cache):
        """Starts a file server for a directory and connects to it on QEMU's behalf."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")  # a nameless address (unix(7), autobind): nothing in the file system
            listener.listen(1)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(listener.getsockname())
            self.inherited.append(connection.detach())
            self._spawn(share.server(directory, cache, listener.fileno()), [listener.fileno()])
        chardev = f"socket,id={tag},fd={self.inherited[-1]}"
        return ["-chardev", chardev, "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]

    def _serial_ports(self):
        """The ports of the conversation, and the console: each a socket pair of which QEMU has one end."""
        options = ["-device", "virtio-serial-pci"]
        for name in (*PORTS, "console"):
            self.ports[name], theirs = socket.socketpair()
            self.inherited.append(theirs.detach())
            options += ["-chardev", f"socket,id={name},fd={self.inherited[-1]}"]
        for number, name in enumerate(PORTS, start=1):
            options += ["-device", f"virtserialport,chardev={name},name=cube.{name},nr={number}"]
        return [*options, "-serial", "chardev:console"]

    def _spawn(self, command, inherited):
        process = subprocess.Popen(
            command, pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.messages,
            start_new_session=True, preexec_fn=die_with_parent,
        )
        self.processes.append(process)
        return process

    def trouble(self):
        """What the programs said, less what they always say."""
        with open(self.messages, closefd=False) as file:
            file.seek(0)
            return [line.rstrip() for line in file if not any(noise in line for noise in NOISE)]

    def close(self):
        for process in reversed(self.processes):
            process.kill()
        for process in self.processes:
            process.wait()
        for port in self.ports.values():
            port.close()


def machine(cpus, memory_mib):
    return [
        "-M", "q35", "-cpu", "EPYC,+svm,+npt", "-smp", str(cpus), "-m", f"{memory_mib}M",
        # One host thread runs all CPUs in turn: with thread=multi the kernel patching its own
        # code races with another CPU's translated code, and a run in a dozen dies of it.
        "-accel", "tcg,thread=single,tb-size=512",
        # virtiofs is vhost-user: the file server has to see the guest's memory.
        "-object", f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on", "-numa", "node,memdev=mem",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-device", "virtio-rng-pci",
    ]


def network(publish):
    """No network card unless a port is published; then only the host can reach in, nothing gets out."""
    if not publish:
        return []
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{port}" for port in publish)
    return ["-nic", f"user,model=virtio-net-pci,restrict=on{forwards}"]


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def qemu():
    found = shutil.which("qemu-system-x86_64")
    if not found:
        raise Missing("no qemu-system-x86_64: run dev/setup first")
    return found
