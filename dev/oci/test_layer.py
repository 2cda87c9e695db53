# SPDX-License-Identifier: Apache-2.0
"""Layers whose bytes depend on their files alone."""

import io
import os
import tarfile
import tempfile
import unittest
from pathlib import Path

from oci.layer import Layer, Packed


def entries(layer):
    with tarfile.open(fileobj=io.BytesIO(layer.tar())) as tar:
        return tar.getmembers()


class Bytes(unittest.TestCase):
    def test_order_of_adding_and_time_do_not_matter(self):
        first, second = Layer(), Layer()
        first.file("a", b"1")
        first.directory("b")
        second.directory("b")
        second.file("a", b"1")
        self.assertEqual(Packed(first, compress=True).data, Packed(second, compress=True).data)

    def test_a_tree_of_the_host_is_taken_without_its_times_and_owners(self):
        layers = []
        for time in (1, 1_000_000_000):
            with tempfile.TemporaryDirectory() as root:
                (Path(root) / "d").mkdir()
                file = Path(root) / "d" / "f"
                file.write_bytes(b"x")
                file.chmod(0o640)
                os.utime(file, (time, time))
                (Path(root) / "l").symlink_to("d/f")
                layers.append(Layer())
                layers[-1].tree(root)
        self.assertEqual(layers[0].tar(), layers[1].tar())
        self.assertEqual([(e.name, e.mode, e.linkname) for e in entries(layers[0])],
                         [("d", 0o755, ""), ("d/f", 0o640, ""), ("l", 0o777, "d/f")])

    def test_a_hard_link_has_the_mode_of_its_target(self):
        layer = Layer()
        layer.file("a", b"", mode=0o4755, owner=7)
        layer.hardlink("b", "a")
        link = entries(layer)[1]
        self.assertEqual((link.islnk(), link.linkname, link.mode, link.uid), (True, "a", 0o4755, 7))
