# SPDX-License-Identifier: Apache-2.0
"""The development VM's disk: a sparse XFS file, mounted at /var/lib/cube inside.

A run gets a fresh one, which has no name on the host, or a kept one, which has a lock.
"""

import fcntl
import os
import subprocess

from places import CACHE, Missing

SIZE = 32 << 30  # sparse: costs what is written
BLOCK = 1 << 20


class Busy(Exception):
    """Another run holds the kept disk."""


def fresh():
    """A descriptor of a new, empty XFS file without a name."""
    with open(template(), "rb") as source:
        target = os.open(directory(), os.O_TMPFILE | os.O_RDWR, 0o600)
        copy_sparse(source.fileno(), target)
    return target


def kept(path):
    """A descriptor of the XFS file at `path`, made if it is not there; locked against a second run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    target = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"{path} is in use by another dev/vm") from None
    if is_new:
        with open(template(), "rb") as source:
            copy_sparse(source.fileno(), target)
    return target


def directory():
    directory = CACHE / "disks"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def template():
    """An empty XFS file in the cache; every disk starts as a copy of it, which is faster than mkfs."""
    path = directory() / f"empty-{SIZE >> 30}g.xfs"
    if not path.exists():
        scratch = path.with_suffix(f".{os.getpid()}")
        try:
            with open(scratch, "wb") as file:
                file.truncate(SIZE)
            # -K: no discard; reflink is what the snapshotter needs; a small log keeps the copy small
            mkfs = ["mkfs.xfs", "-q", "-K", "-m", "reflink=1", "-l", "size=64m", scratch]
            subprocess.run(mkfs, check=True)
            scratch.rename(path)
        except FileNotFoundError:
            raise Missing("no mkfs.xfs: run dev/setup first") from None
        finally:
            scratch.unlink(missing_ok=True)
    return path


def copy_sparse(source, target):
    """Copies what is not zero."""
    os.ftruncate(target, os.fstat(source).st_size)
    position = 0
    while True:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        position = os.lseek(source, start, os.SEEK_HOLE)
        for offset in range(start, position, BLOCK):
            data = os.pread(source, min(BLOCK, position - offset), offset)
            if data.strip(b"\0"):
                os.pwrite(target, data, offset)
