# SPDX-License-Identifier: Apache-2.0
"""From the inputs to a directory with an image."""

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from . import Unusable, agent, initramfs
from .exchange import replace
from .kernel import Kernel


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: agent/image/build DIRECTORY", file=sys.stderr)
        return 2
    begun = time.monotonic()
    try:
        manifest = build(Path(arguments[0]).absolute())
    except (Unusable, OSError) as error:
        print(f"agent/image/build: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - begun
    print(f"guest image: {manifest['kernel_release']}, agent {manifest['agent_version']}, "
          f"digest {manifest['digest'][:12]} ({seconds:.1f} s)")
    return 0


def build(directory):
    kernel = Kernel.find()
    program, version = agent.find()
    files = {kernel.name: kernel.image, "initramfs": initramfs.build(kernel, program)}
    manifest = describe(kernel, version, files["initramfs"])
    files["manifest.json"] = json.dumps(manifest, indent=2).encode() + b"\n"
    publish(directory, files)
    return manifest


def describe(kernel, version, archive):
    manifest = {
        "kernel_release": kernel.release,
        "kernel_sha256": sha256(kernel.image),
        "initramfs_sha256": sha256(archive),
        "agent_version": version,
    }
    manifest["digest"] = sha256(json.dumps(manifest, sort_keys=True).encode())
    return manifest


def publish(directory, files):
    """Whoever opens the image sees the old one or the new one, never half of each."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = directory.with_name(f"{directory.name}.{os.getpid()}")
    try:
        scratch.mkdir()
        for name, data in files.items():
            (scratch / name).write_bytes(data)
        replace(directory, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256(data):
    return hashlib.sha256(data).hexdigest()
