# SPDX-License-Identifier: Apache-2.0
"""What is in each test image.

    busybox   a shell and its tools, users root, nobody and user (1000)
    python    Debian's python3 with its standard library, and busybox for everything else
    layers    busybox and two more layers that change, remove and replace what is below them
    foreign   an image for another architecture, which has to be refused with a clear word

The two that E2B's SDKs ask for are in `e2b`.
"""

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from debs.suite import Suite, host_sources

from . import e2b
from .archive import image
from .layer import Layer

BUSYBOX = Path("/bin/busybox")
USER = 1000
PASSWD = b"""root:x:0:0:root:/root:/bin/sh
user:x:1000:1000:user:/home/user:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = b"""root:x:0:
staff:x:50:user
user:x:1000:
nogroup:x:65534:
"""
# Documentation, character sets, the package manager, and parts of the library that nothing imports.
UNWANTED = (
    "etc/cron.daily", "etc/dpkg", "etc/logrotate.d", "etc/alternatives", "usr/bin/dpkg*", "usr/bin/update-alternatives",
    "usr/lib/mime", "usr/lib/systemd", "usr/lib/valgrind", "usr/lib/x86_64-linux-gnu/gconv", "usr/sbin", "usr/share",
    "var",
    *(f"usr/lib/python3*/{name}" for name in ("test", "idlelib", "lib2to3", "pydoc_data", "turtledemo", "ensurepip")),
)


def busybox():
    return image("docker.io/library/busybox:latest", [shell()], ["sh"])


def python():
    layer = Layer()
    with tempfile.TemporaryDirectory(prefix="cube-image-") as scratch:
        root = Path(scratch)
        # The host's own release, for an empty system: everything that python3 needs and no more.
        Suite("image", host_sources()).unpack_with_dependencies(["python3"], root)
        for pattern in UNWANTED:
            for path in root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        merge_usr(root)
        precompile(root)
        layer.tree(root)
    layer.symlink("usr/local/bin/python", "/usr/bin/python3")
    # Not compressed: emulated CPUs are slow at it, and the other images are.
    base = shell("usr/bin")
    return image("docker.io/library/python:latest", [base, layer], ["python3"], compress=False)


def layers():
    """Each path says what has to be seen in the end."""
    changed = Layer()
    changed.directory("data")
    for name in ("kept", "removed", "replaced"):
        changed.file(f"data/{name}", f"{name} in layer 1\n".encode())
    for name in ("removed-directory", "opaque"):
        changed.file(f"data/{name}/below", b"layer 1\n")
    changed.file("data/setuid", b"#!/bin/sh\n", mode=0o4755)
    changed.file("data/users", b"layer 1\n", mode=0o640, owner=USER)
    changed.hardlink("data/setuid-again", "data/setuid")

    top = Layer()  # whiteouts: OCI image spec, layer.md
    top.file("data/.wh.removed", b"")
    top.file("data/.wh.removed-directory", b"")
    top.file("data/opaque/.wh..wh..opq", b"")
    top.file("data/opaque/above", b"layer 2\n")
    top.file("data/replaced", b"replaced in layer 2\n")
    return image("docker.io/library/layers:latest", [shell(), changed, top], ["sh"])


def foreign():
    layer = Layer()
    # An ELF header for AArch64 and nothing behind it: no kernel of another machine gets further.
    header = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, 183, 1, 0x400000, 0, 0, 0, 64, 56, 0, 0, 0, 0)
    layer.file("bin/sh", header, mode=0o755)
    return image("docker.io/library/foreign:latest", [layer], ["sh"], architecture="arm64")


RECIPES = {recipe.__name__: recipe for recipe in (busybox, python, layers, foreign)} | e2b.RECIPES


def shell(binaries="bin"):
    """A layer with busybox under all its names, in `bin` or, for a merged /usr, in `usr/bin`."""
    layer = Layer()
    for path in ("dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/tmp"):
        layer.directory(path)
    layer.directory("root", mode=0o700)
    layer.directory("home/user", owner=USER)
    layer.directory("tmp", mode=0o1777)
    layer.directory("var/tmp", mode=0o1777)
    layer.file("etc/passwd", PASSWD)
    layer.file("etc/group", GROUP)
    if binaries == "bin":
        layer.directory("bin")
        layer.directory("sbin")
    else:
        layer.symlink("bin", "usr/bin")
        layer.symlink("sbin", "usr/sbin")
    layer.file(f"{binaries}/busybox", BUSYBOX.read_bytes(), mode=0o755)
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True).stdout.decode().split():
        if applet != "busybox":
            layer.symlink(f"{binaries}/{applet}", "/" + f"{binaries}/busybox")
    return layer


def precompile(root):
    """Bytecode that is valid whatever the files' times, so that the first start is as fast as the second."""
    library = next(path for path in (root / "usr" / "lib").glob("python3.*") if path.is_dir())
    interpreter = f"/usr/bin/{library.name}"
    # -B: what the compiler itself imports must not be written first, with a time in it.
    compiler = [interpreter, "-B", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    subprocess.run(["chroot", root, *compiler, f"/usr/lib/{library.name}"], check=True)


def merge_usr(root):
    """Older packages still have files in /lib; here they are where /lib will point."""
    for name in ("bin", "sbin", "lib", "lib64"):
        old, new = root / name, root / "usr" / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        if new.is_dir() and not old.is_symlink():
            old.symlink_to(f"usr/{name}")
