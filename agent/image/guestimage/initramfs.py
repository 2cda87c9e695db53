# SPDX-License-Identifier: Apache-2.0
"""The guest's first and only file system: the agent, and the modules that it loads.

Not compressed: unpacking costs more at boot than the bytes. Only modules that a guest may never need are,
in the form that the kernel unpacks by itself.
"""

import lzma
import stat

from .cpio import Cpio

# What every machine needs, and vsock first: the host waits for it.
AT_BOOT = ("virtio_mmio", "vmw_vsock_virtio_transport", "virtio_blk", "virtio_rng")

# By the names under which they are asked for (`agent/src/guest/modules.rs`): file systems by the kernel when
# something is mounted, the network device by the agent when the machine gets a network. A quarter of the time
# that modules take at boot would be the latter's.
ON_DEMAND = {"fs-overlay": "overlay", "fs-xfs": "xfs", "virtio-net": "virtio_net"}

# Empty; the agent mounts on them.
DIRECTORIES = ("dev", "etc", "lib", "lib/modules", "proc", "root", "run", "sbin", "sys")


def build(kernel, agent):
    files = {"init": (0o755, agent)}
    files |= modules(kernel.modules)
    archive = Cpio()
    for path in DIRECTORIES:
        archive.add(path, stat.S_IFDIR | 0o755)
    # The kernel opens it for PID 1 before anything is mounted.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("sbin/modprobe", stat.S_IFLNK | 0o777, b"/init")
    for path, (mode, data) in sorted(files.items()):
        archive.add(path, stat.S_IFREG | mode, data)
    return archive.finish()


def modules(available):
    """The modules and the two lists of them, by path."""
    files = {}

    def place(path, packed):
        name = path.split("/")[-1].removesuffix(".xz")
        data = available.read(path)
        # Needed at boot by one and on demand by another: once, as it is needed at boot.
        if packed and f"lib/modules/{name}" not in files:
            # CRC32 is the only check that the kernel's own unpacker knows.
            data = lzma.compress(data, check=lzma.CHECK_CRC32, preset=9)
            name += ".xz"
        files[f"lib/modules/{name}"] = (0o644, data)
        return name

    boot = []
    for wanted in AT_BOOT:
        for path in available.closure(wanted):
            name = place(path, packed=False)
            if name not in boot:
                boot.append(name)
    files["lib/modules/boot"] = (0o644, lines(boot))
    aliases = [
        " ".join([alias, *(place(path, packed=True) for path in available.closure(wanted))])
        for alias, wanted in sorted(ON_DEMAND.items())
    ]
    files["lib/modules/on-demand"] = (0o644, lines(aliases))
    return files


def lines(texts):
    return "".join(f"{text}\n" for text in texts).encode()
