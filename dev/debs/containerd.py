# SPDX-License-Identifier: Apache-2.0
"""containerd of three Debian suites, each with its own ctr and runc shim, and a runc that runs here.

    containerd/1.6 -> containerd/VERSION/bin/{containerd,ctr,containerd-shim-runc-v2,runc}
"""

import os
import shutil
import subprocess

from places import CACHE

from .kernel import link
from .suite import Suite, Unavailable, sources_of

DIRECTORY = CACHE / "containerd"
# The suite is pinned, not the version: mirrors keep only a suite's newest.
SUITES = {"1.6": "bookworm", "1.7": "trixie", "2.1": "sid"}
PROGRAMS = ("containerd", "ctr", "containerd-shim-runc-v2")


def present(series):
    return (DIRECTORY / series / "bin" / "runc").exists()


def fetch(series):
    """Returns the versions fetched, as text."""
    suite = Suite(SUITES[series], sources_of(SUITES[series]))
    version = suite.candidate("containerd")
    if not version:
        raise Unavailable(f"no containerd in {suite.name}")
    target = DIRECTORY / version.replace("/", "_")
    if not target.exists():
        scratch = DIRECTORY / f"{version}.{os.getpid()}"
        try:
            unpack(suite, scratch)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    link(DIRECTORY / series, target.name)
    return f"{version} with {first_line(target / 'bin' / 'runc', '--version')}"


def unpack(suite, target):
    binaries, scratch = target / "bin", target / "packages"
    binaries.mkdir(parents=True)
    suite.unpack("containerd", scratch)
    for program in PROGRAMS:
        (scratch / "usr" / "bin" / program).rename(binaries / program)
        if lacking := unmet(binaries / program):
            raise Unavailable(f"{suite.name}'s {program} does not run here: {lacking}")
    place_runc(suite, scratch, binaries / "runc")
    shutil.rmtree(scratch)


def place_runc(suite, scratch, target):
    """The suite's runc, or, where that wants a newer C library than the host has, Debian 12's."""
    suite.unpack("runc", scratch)
    found = scratch / "usr" / "sbin" / "runc"
    if unmet(found):
        Suite("bookworm", sources_of("bookworm")).unpack("runc", scratch)
    if lacking := unmet(found):
        raise Unavailable(f"no runc that runs here: {lacking}")
    found.rename(target)


def unmet(program):
    """What a program needs and this host lacks, in ldd's words; empty if nothing."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True)
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if "not found" in line), "")


def first_line(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]
