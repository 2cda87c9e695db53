# SPDX-License-Identifier: Apache-2.0
"""The processes of one development VM: virtiofsd for each share, QEMU for the machine.

QEMU's flags are a recipe in which each was tried; the reasons are beside those that surprise.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess

from places import RESULTS, Missing

ADDRESS = "10.0.2.15/24"  # where QEMU's user network forwards to
PORTS = ("control", "stdin", "stdout", "stderr")
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
NOISE = ("TCG doesn't support requested feature", "Unexpected poll revents 11")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LIBC = ctypes.CDLL(None)


class Machine:
    """A running QEMU and its virtiofsd processes. Closing it kills them; so does our own death."""

    def __init__(self, kernel, disk, cpus, memory_mib, publish=()):
        self.processes = []
        self.ports = {}
        self.console = None
        # What the programs say, kept for when they fail: they are not silent when all is well.
        self.messages = os.memfd_create("messages")
        try:
            self._start(kernel, disk, cpus, memory_mib, publish)
        except BaseException:
            self.close()
            raise

    def _start(self, kernel, disk, cpus, memory_mib, publish):
        RESULTS.mkdir(parents=True, exist_ok=True)
        inherited = [disk]
        shares = [
            self._share("/", "cache=always"),
            self._share(RESULTS, "cache=none"),
        ]
        initrd = os.memfd_create("initrd")
        with open(initrd, "wb", closefd=False) as file:
            file.write(kernel.initramfs(ADDRESS if publish else ""))
        inherited += [share.fileno() for share in shares] + [initrd]
        command = [
            qemu(), "-M", "q35", "-cpu", "EPYC,+svm,+npt", "-smp", str(cpus), "-m", f"{memory_mib}M",
            # One host thread runs all CPUs in turn: with thread=multi the kernel patching its own
            # code races with another CPU's translated code, and a run in a dozen dies of it.
            "-accel", "tcg,thread=single,tb-size=512",
            # virtiofs is vhost-user: the file server has to see the guest's memory.
            "-object", f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on", "-numa", "node,memdev=mem",
            "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
            "-kernel", kernel.vmlinux, "-initrd", f"/proc/self/fd/{initrd}",
            # panic=-1 with -no-reboot: a panic ends QEMU at once, and an oops is a panic here.
            "-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off apparmor=0",
            "-drive", f"file=/proc/self/fd/{disk},if=virtio,format=raw,cache=unsafe,discard=unmap",
            "-device", "virtio-rng-pci",
        ]
        for number, (tag, share) in enumerate(zip(("hostroot", "results"), shares)):
            command += ["-chardev", f"socket,id=fs{number},fd={share.fileno()}"]
            command += ["-device", f"vhost-user-fs-pci,chardev=fs{number},tag={tag}"]
        command += ["-device", "virtio-serial-pci"]
        for number, name in enumerate(PORTS, start=1):
            self.ports[name], theirs = socket.socketpair()
            inherited.append(theirs.detach())
            command += ["-chardev", f"socket,id={name},fd={inherited[-1]}"]
            command += ["-device", f"virtserialport,chardev={name},name=cube.{name},nr={number}"]
        self.console, theirs = socket.socketpair()
        inherited.append(theirs.detach())
        command += ["-chardev", f"socket,id=console,fd={inherited[-1]}", "-serial", "chardev:console"]
        command += network(publish)
        self.qemu = self._spawn(command, inherited)
        for descriptor in inherited:
            os.close(descriptor) if descriptor not in [share.fileno() for share in shares] else None
        for share in shares:
            share.close()

    def _share(self, directory, cache):
        """Starts a file server for a directory and returns the connection that QEMU is to use."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")  # a nameless address (unix(7), autobind): nothing in the file system
            listener.listen(1)
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(listener.getsockname())
            command = [virtiofsd(), f"--fd={listener.fileno()}", "-o", f"source={directory}", "-o", cache]
            command += ["-o", "sandbox=chroot", "-o", "xattr", "-o", "log_level=err"]
            self._spawn(command, [listener.fileno()])
        return connection

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
        for port in [*self.ports.values(), self.console]:
            if port is not None:
                port.close()


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


def virtiofsd():
    for path in VIRTIOFSD:
        if os.access(path, os.X_OK):
            return path
    raise Missing(f"no virtiofsd at {' or '.join(VIRTIOFSD)}: run dev/setup first")
