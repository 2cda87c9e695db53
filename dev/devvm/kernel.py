# SPDX-License-Identifier: Apache-2.0
"""The development VM's kernel, and the initramfs that carries it to the host's root.

The kernel is the one `dev/setup` unpacked into the cache. The initramfs is four files, so it is
written anew for every run: nothing to cache, nothing to go stale.
"""

import os
import shlex
import stat
import sys
from pathlib import Path

from places import CACHE, RESULTS, Missing

GUEST = Path(__file__).resolve().parent / "guest"
BUSYBOX = Path("/bin/busybox")


class Kernel:
    """A kernel package as `dev/setup` unpacks it: boot/vmlinux and lib/modules/RELEASE."""

    def __init__(self, directory=CACHE / "kernel" / "current"):
        self.directory = directory.resolve()
        self.vmlinux = self.directory / "boot" / "vmlinux"
        if not self.vmlinux.exists():
            raise Missing(f"no kernel in {directory}: run dev/setup first")
        (self.modules,) = (self.directory / "lib" / "modules").iterdir()
        self.release = self.modules.name

    def initramfs(self, address):
        """The bytes of the initramfs: busybox, init, the one module that mounting the root needs.

        `address` is for the network card, empty if there is none.
        """
        words = {
            "release": self.release,
            "modules": str(self.modules).lstrip("/"),
            "results": str(RESULTS).lstrip("/"),
            "python": os.path.realpath(sys.executable),
            "address": address,
            "pid1": str(GUEST / "pid1.py"),
        }
        init = (GUEST / "init.sh").read_text()
        for word, value in words.items():
            init = init.replace(f"@{word}@", shlex.quote(value))
        if not BUSYBOX.exists():
            raise Missing(f"no static busybox at {BUSYBOX}: run dev/setup first")

        archive = Cpio()
        for directory in ("bin", "dev", "lower", "proc", "root", "sys", "upper"):
            archive.add(directory, stat.S_IFDIR | 0o755)
        archive.add("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes())
        for applet in ("cat", "chroot", "hostname", "insmod", "ip", "ln", "mkdir", "mount", "sh", "switch_root"):
            archive.add(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
        overlay = self.modules / "kernel" / "fs" / "overlayfs" / "overlay.ko"
        archive.add("overlay.ko", stat.S_IFREG | 0o644, overlay.read_bytes())
        archive.add("init", stat.S_IFREG | 0o755, init.encode())
        return archive.finish()


class Cpio:
    """Writes the `newc` form that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self.parts = []
        self.inode = 0

    def add(self, name, mode, data=b""):
        self.inode += 1
        path = name.encode() + b"\0"
        # inode mode uid gid nlink mtime size major minor rmajor rminor namesize check
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self.parts.append(pad(header + path) + pad(data))

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def pad(data):
    """To the next multiple of four: both the header with its name and the data are aligned so."""
    return data + b"\0" * (-len(data) % 4)
