# SPDX-License-Identifier: Apache-2.0
"""The archive that the kernel unpacks."""

import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

from devvm.disk import copy_sparse
from devvm.kernel import BUSYBOX, Cpio


class Archive(unittest.TestCase):
    def test_another_program_finds_in_it_what_was_put_in(self):
        archive = Cpio()
        archive.add("d", stat.S_IFDIR | 0o755)
        for size in range(5):  # every way to be off a multiple of four
            archive.add(f"d/{'f' * (size + 1)}", stat.S_IFREG | 0o640, b"x" * size)
        archive.add("l", stat.S_IFLNK | 0o777, b"d/f")
        with tempfile.TemporaryDirectory() as root:
            subprocess.run([BUSYBOX, "cpio", "-idm"], input=archive.finish(), cwd=root, check=True, capture_output=True)
            files = sorted((Path(root) / "d").iterdir())
            self.assertEqual([file.read_bytes() for file in files], [b"x" * size for size in range(5)])
            self.assertEqual(stat.S_IMODE(files[0].stat().st_mode), 0o640)
            self.assertEqual((Path(root) / "l").readlink(), Path("d/f"))


class Disk(unittest.TestCase):
    def test_a_sparse_copy_has_the_same_bytes_and_no_zeros_on_disk(self):
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
            source.write(b"head" + bytes(3 << 20))
            source.truncate(1 << 30)
            source.seek((1 << 29) + 5)
            source.write(b"middle")
            source.flush()
            copy_sparse(source.fileno(), target.fileno())
            self.assertEqual(target.read(4), b"head")
            self.assertEqual(target.seek((1 << 29) + 5) and target.read(6), b"middle")
            self.assertEqual(target.seek(0, 2), 1 << 30)
            self.assertLess(Path(f"/proc/self/fd/{target.fileno()}").stat().st_blocks * 512, 3 << 20)
