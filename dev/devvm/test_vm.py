# SPDX-License-Identifier: Apache-2.0
"""The development VM itself: two boots, in which whatever a test relies on is tried."""

import hashlib
import os
import subprocess
import unittest
from pathlib import Path

from places import CHECKOUT

LIMIT_SECONDS = 300


def vm(*arguments, **options):
    command = [CHECKOUT / "dev" / "vm", "--timeout", str(LIMIT_SECONDS), *arguments]
    return subprocess.run(command, capture_output=True, **options)


@unittest.skipIf("CUBE_DEV_VM" in os.environ, "this is one")
class Vm(unittest.TestCase):
    def test_streams_are_apart_and_whole_and_the_exit_code_is_the_commands(self):
        data = os.urandom(10 << 20)
        script = """
            tee "$CUBE_RESULTS/copy" | { cat; test -c /dev/kvm && pwd >&2; }
            grep -cw svm /proc/cpuinfo >&2
            exit 9
        """
        done = vm("sh", "-c", script, input=data, cwd="/usr/bin")
        self.assertEqual((done.returncode, done.stderr), (9, b"/usr/bin\n1\n"))
        self.assertEqual(hashlib.sha256(done.stdout).digest(), hashlib.sha256(data).digest())
        copy = CHECKOUT / "target" / "results" / "copy"
        self.assertEqual(copy.read_bytes(), data)
        copy.unlink()

    def test_a_panic_is_told_apart_from_a_failing_command_and_nothing_was_written(self):
        mark = Path("/usr/written-in-the-development-vm")
        done = vm("sh", "-c", f"touch {mark}; echo c > /proc/sysrq-trigger; sleep 60", stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 125)
        self.assertIn(b"Kernel panic - not syncing: sysrq triggered crash", done.stderr)
        self.assertFalse(mark.exists())
