# SPDX-License-Identifier: Apache-2.0
"""Clients that are not in Debian and are written in Go: built once, by version, with the host's own Go.

    go/crictl -> go/crictl-VERSION/crictl

The go command checks what it fetches against its checksum database, which stays on: what it cannot
check is not built.
"""

import dataclasses
import os
import shutil
import subprocess

from debs.kernel import link
from debs.suite import Unavailable
from places import CACHE

DIRECTORY = CACHE / "go"
LIMIT_SECONDS = 900  # on two busy cores crictl takes a minute and a half
FLAGS = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w"]


@dataclasses.dataclass(frozen=True)
class Tool:
    """A program, as `go install` names it."""

    name: str
    package: str
    version: str

    def place(self):
        return DIRECTORY / f"{self.name}-{self.version}"

    def present(self):
        return (self.place() / self.name).exists() and (DIRECTORY / self.name).exists()

    def fetch(self):
        """Builds it; returns its version."""
        go = shutil.which("go")
        if not go:
            raise Unavailable("no go on the PATH")
        scratch = DIRECTORY / f"{self.name}.{os.getpid()}"
        scratch.mkdir(parents=True)
        try:
            self.install(go, scratch)
            shutil.rmtree(self.place(), ignore_errors=True)
            scratch.rename(self.place())
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        link(DIRECTORY / self.name, self.place().name)
        return self.version

    def install(self, go, target):
        command = [go, "install", *FLAGS, f"{self.package}@{self.version}"]
        environment = {**os.environ, "GOBIN": str(target), "CGO_ENABLED": "0"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"go install did not end within {LIMIT_SECONDS} s") from None
        if done.returncode != 0:
            raise Unavailable(f"go install: {last_word(done.stderr)}")


def last_word(said):
    """What the go command said last, without its progress."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("go: downloading")]
    return lines[-1] if lines else "it did not say why"


TOOLS = (Tool("crictl", "sigs.k8s.io/cri-tools/cmd/crictl", "v1.37.0"),)
