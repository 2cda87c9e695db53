# SPDX-License-Identifier: Apache-2.0
"""survival.py make: a sandbox with a file and a process in it; prints its id.
survival.py find ID: all of it is still there, through another server; then it goes."""

import sys
import time

from e2b import Sandbox, SandboxQuery

METADATA = {"test": "survival"}


def make():
    sandbox = Sandbox.create("base", timeout=1200, metadata=METADATA)
    sandbox.files.write("kept", "x")
    sandbox.commands.run("sleep 100000", background=True)
    print(sandbox.sandbox_id)


def find(name):
    listed = Sandbox.list(query=SandboxQuery(metadata=METADATA)).next_items()
    assert [item.sandbox_id for item in listed] == [name], listed
    before = listed[0].end_at
    sandbox = Sandbox.connect(name)
    assert sandbox.get_info().end_at == before, "a connection for less time changed the deadline"
    assert sandbox.files.read("kept") == "x"
    assert any("100000" in " ".join(process.args) for process in sandbox.commands.list())
    sandbox.set_timeout(1)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not sandbox.is_running():
            return
        time.sleep(0.5)
    raise AssertionError("its time was over and it went on")


make() if sys.argv[1] == "make" else find(sys.argv[2])
