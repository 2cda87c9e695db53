# SPDX-License-Identifier: Apache-2.0
"""Building Go programs: what is said when it cannot be done."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import gotools
from debs.suite import Unavailable

TOOL = gotools.Tool("tool", "example.com/tool", "v1.2.3")


class Fetch(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        self.cache = self.root / "go"
        patch = mock.patch.object(gotools, "DIRECTORY", self.cache)
        patch.start()
        self.addCleanup(patch.stop)

    def path(self, script):
        """A PATH with a go command that does this, or with none."""
        programs = self.root / "bin"
        programs.mkdir()
        if script:
            (programs / "go").write_text(f"#!/bin/sh\n{script}\n")
            (programs / "go").chmod(0o755)
        return mock.patch.dict(os.environ, {"PATH": f"{programs}{':/usr/bin:/bin' if script else ''}"})

    def test_a_built_program_is_found_under_its_name_and_nothing_else_is_left(self):
        with self.path('echo "$@" > "$GOBIN/tool"'):
            self.assertEqual(TOOL.fetch(), "v1.2.3")
        self.assertTrue(TOOL.present())
        self.assertIn("example.com/tool@v1.2.3", (self.cache / "tool" / "tool").read_text())
        self.assertEqual(sorted(path.name for path in self.cache.iterdir()), ["tool", "tool-v1.2.3"])

    def test_without_go_there_is_a_word_and_no_directory(self):
        with self.path(None), self.assertRaisesRegex(Unavailable, "no go on the PATH"):
            TOOL.fetch()
        self.assertFalse(TOOL.present() or self.cache.exists())

    def test_what_go_said_last_is_the_reason(self):
        with self.path("echo 'go: downloading x v1' >&2; echo 'x: 404 Not Found' >&2; exit 1"):
            with self.assertRaisesRegex(Unavailable, "go install: x: 404 Not Found$"):
                TOOL.fetch()
        self.assertEqual(list(self.cache.iterdir()), [])
