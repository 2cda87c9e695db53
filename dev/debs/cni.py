# SPDX-License-Identifier: Apache-2.0
"""The CNI plug-ins of the host's own Debian release, for tests that give containers and pods a network.

    cni/current -> cni/VERSION/bin/{bridge,host-local,loopback,portmap,ptp,...}
"""

import os
import shutil

from places import CACHE

from .kernel import link
from .suite import Suite, Unavailable, host_sources

DIRECTORY = CACHE / "cni"
PACKAGE = "containernetworking-plugins"


def present():
    return (DIRECTORY / "current" / "bin" / "bridge").exists()


def fetch():
    """Returns the version fetched."""
    suite = Suite("cni", host_sources())
    version = suite.candidate(PACKAGE)
    if not version:
        raise Unavailable(f"no {PACKAGE} in this host's Debian sources")
    target = DIRECTORY / version
    if not target.exists():
        scratch = DIRECTORY / f"{version}.{os.getpid()}"
        try:
            suite.unpack(PACKAGE, scratch / "package")
            (scratch / "package" / "usr" / "lib" / "cni").rename(scratch / "bin")
            shutil.rmtree(scratch / "package")
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    link(DIRECTORY / "current", version)
    return version
