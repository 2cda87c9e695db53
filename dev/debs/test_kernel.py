# SPDX-License-Identifier: Apache-2.0
"""Taking a kernel image apart."""

import struct
import subprocess
import unittest

from debs.kernel import payload
from debs.suite import Unavailable


def image(packed, setup_sectors):
    """A bzImage with nothing in it but what locates the payload."""
    offset = 64
    header = bytearray(0x250)
    header[0x1F1] = setup_sectors
    struct.pack_into("<II", header, 0x248, offset, len(packed) + 4)
    start = ((setup_sectors or 4) + 1) * 512 + offset
    return bytes(header).ljust(start, b"\0") + packed + b"size" + b"what follows"


class Payload(unittest.TestCase):
    def test_the_elf_file_comes_out(self):
        elf = b"\x7fELF" + bytes(1000)
        packed = subprocess.run(["zstd", "-cq"], input=elf, capture_output=True, check=True).stdout
        for setup_sectors in (0, 1, 39):
            self.assertEqual(payload(image(packed, setup_sectors)), elf)

    def test_another_packing_is_refused(self):
        with self.assertRaises(Unavailable):
            payload(image(b"\x1f\x8b not zstd", 4))
