# SPDX-License-Identifier: Apache-2.0
"""A kernel and its modules, checked: a cut or foreign file is an error here, not a guest that never answers.

A kernel is a `vmlinuz` (a bzImage, Documentation/arch/x86/boot.rst), as the package has it, or a `vmlinux`
(an ELF file), which CUBE_KERNEL may name: it does not unpack itself at every boot.
"""

import lzma
import os
import re
import struct
from pathlib import Path

from . import Unusable

SECTOR = 512
PARAGRAPH = 16


class Kernel:
    def __init__(self, path, modules=None):
        try:
            self.image = path.read_bytes()
        except OSError as error:
            raise Unusable(f"cannot read the kernel: {error}") from error
        self.name, self.release = identify(path, self.image)
        self.modules = Modules(modules or Path("/lib/modules") / self.release, self.release)

    @classmethod
    def find(cls):
        own = os.environ.get("CUBE_KERNEL")
        if own:
            modules = os.environ.get("CUBE_KERNEL_MODULES")
            return cls(Path(own), Path(modules) if modules else None)
        directory = Path(os.environ.get("CUBE_CACHE") or "/var/cache/cube") / "kernel" / "current"
        images = list((directory / "boot").glob("vmlinuz-*"))
        if len(images) != 1:
            raise Unusable(f"no kernel in {directory}: run dev/setup first, or set CUBE_KERNEL to one")
        name = images[0].name.removeprefix("vmlinuz-")
        return cls(images[0], directory / "lib" / "modules" / name)


def identify(path, image):
    """The name of its form, and what `uname -r` says in a guest, if it is a kernel and whole."""
    if image.startswith(b"\x7fELF"):
        return "vmlinux", release_of_elf(path, image)
    if image[0x202:0x206] == b"HdrS":
        return "vmlinuz", release_of_bzimage(path, image)
    raise Unusable(f"{path} is not a kernel: neither an ELF file nor a bzImage")


def release_of_elf(path, image):
    if len(image) < 64:
        raise cut_off(path, image, 64)
    (table,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    # The table of sections is the last thing in the file.
    if len(image) < table + size * count:
        raise cut_off(path, image, table + size * count)
    version = re.search(rb"Linux version ([!-~]+) ", image)
    return release(path, version and version[1])


def release_of_bzimage(path, image):
    sectors = image[0x1F1] or 4
    (paragraphs,) = struct.unpack_from("<I", image, 0x1F4)
    expected = (sectors + 1) * SECTOR + paragraphs * PARAGRAPH
    if len(image) < expected:
        raise cut_off(path, image, expected)
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    words = image[offset + SECTOR : (sectors + 1) * SECTOR].split(b"\0")[0].split()
    return release(path, words[0] if offset and words else None)


def release(path, version):
    if not version:
        raise Unusable(f"{path} does not say which version of Linux it is")
    return version.decode(errors="replace")


def cut_off(path, image, expected):
    return Unusable(f"{path} is cut off: it has {len(image)} bytes of {expected}; remove it and run dev/setup again")


class Modules:
    """/lib/modules/RELEASE."""

    def __init__(self, directory, release):
        self.directory = directory
        self.release = release
        try:
            lines = (directory / "modules.dep").read_text().splitlines()
            builtin = (directory / "modules.builtin").read_text().split()
        except OSError as error:
            raise Unusable(f"no modules for kernel {release}: {error}") from error
        self.needs = {}
        for line in lines:
            path, _, others = line.partition(":")
            self.needs[path] = others.split()
        self.paths = {name(path): path for path in self.needs}
        self.builtin = {name(path) for path in builtin}

    def closure(self, wanted):
        """Files of a module and of what it needs, in an order in which each finds what it needs."""
        if wanted in self.builtin:
            return []
        if wanted not in self.paths:
            raise Unusable(f"kernel {self.release} has no module {wanted} in {self.directory}")
        path = self.paths[wanted]
        # modules.dep lists the whole closure, nearest first.
        return [*reversed(self.needs[path]), path]

    def read(self, path):
        """A module, unpacked."""
        data = (self.directory / path).read_bytes()
        if path.endswith(".xz"):
            try:
                data = lzma.decompress(data)
            except lzma.LZMAError as error:
                raise Unusable(f"{self.directory / path} is damaged: {error}") from error
        if not data.startswith(b"\x7fELF"):
            raise Unusable(f"{self.directory / path} is damaged: it is not a kernel module")
        return data


def name(path):
    """Of a module, as the kernel spells it."""
    return Path(path).name.split(".ko")[0].replace("-", "_")
