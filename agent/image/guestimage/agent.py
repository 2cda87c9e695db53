# SPDX-License-Identifier: Apache-2.0
"""The agent's program: static, because the guest has no libraries."""

import json
import os
import struct
import subprocess
from pathlib import Path

from . import Unusable

CHECKOUT = Path(__file__).resolve().parents[3]

# Only this one program is static, so the flags go to its own compilation and to nothing else of the
# workspace: the same target directory, the same dependencies. At a fixed address, because it runs once more
# for every process of a container, and moving itself first is a quarter of that; where it lies would be no
# secret anyway, as all machines of one template share it.
BUILD = ["cargo", "rustc", "--release", "--locked", "-p", "cube-agent", "--bin", "cube-agent",
         "--message-format=json-render-diagnostics", "--",
         "-C", "target-feature=+crt-static", "-C", "relocation-model=static"]

ELF_HEADER = b"\x7fELF\x02\x01"
X86_64 = 62
INTERPRETER = 3  # PT_INTERP


def find():
    """Its bytes and its version."""
    path = os.environ.get("CUBE_AGENT") or build()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Unusable(f"cannot read the agent: {error}") from error
    check(path, data)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if said.returncode != 0 or not said.stdout.startswith("cube-agent "):
        raise Unusable(f"{path} is not the agent: `--version` answers {said.stdout!r}")
    return data, said.stdout.split()[1]


def build():
    done = subprocess.run(BUILD, cwd=CHECKOUT, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise Unusable("the agent does not build: see above")
    built = [message["executable"] for message in map(json.loads, done.stdout.splitlines())
             if message["reason"] == "compiler-artifact" and message["target"]["name"] == "cube-agent"
             and message["executable"]]
    return built[-1]


def check(path, data):
    """Static and for this machine, or the guest's kernel could not start it and would only say so on its console."""
    if not data.startswith(ELF_HEADER) or struct.unpack_from("<H", data, 18)[0] != X86_64:
        raise Unusable(f"{path} is not a program for x86-64")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, table + number * size)[0] for number in range(count)]
    if INTERPRETER in kinds:
        raise Unusable(f"{path} is not static: build it with -C target-feature=+crt-static")
