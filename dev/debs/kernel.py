# SPDX-License-Identifier: Apache-2.0
"""The kernel of the development VM and of the guests: Debian's 6.12 cloud kernel, unpacked.

    kernel/current -> kernel/VERSION/
        boot/vmlinuz-RELEASE, config-RELEASE, System.map-RELEASE    as packaged
        boot/vmlinux              unpacked once, so that no slow emulated CPU has to at every boot
        lib/modules/RELEASE/      modules unpacked for the same reason, with modules.dep made
"""

import os
import shutil
import struct
import subprocess

from places import CACHE

from .suite import Suite, Unavailable, codename, host_sources, sources_of

DIRECTORY = CACHE / "kernel"
SERIES = "6.12."
# The name in Debian 12 (security, backports), then the one in Debian 13.
PACKAGES = ("linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64")


def present():
    return (DIRECTORY / "current" / "boot" / "vmlinux").exists()


def fetch():
    """Returns the version fetched."""
    suite, package, version = find()
    target = DIRECTORY / version
    if not target.exists():
        scratch = DIRECTORY / f"{version}.{os.getpid()}"
        try:
            unpack(suite, package, scratch)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    link(DIRECTORY / "current", version)
    return version


def find():
    """Where the kernel is to be had: the host's own suites, its backports, the next release."""
    backports = f"{codename()}-backports"
    places = [("host", host_sources()), (backports, sources_of(backports)), ("trixie", sources_of("trixie"))]
    reasons = []
    for name, sources in places:
        try:
            suite = Suite(name, sources)
        except Unavailable as error:
            reasons.append(str(error))
            continue
        for metapackage in PACKAGES:
            version = suite.candidate(metapackage)
            if version and version.startswith(SERIES):
                images = [name for name in suite.depends(metapackage) if name.startswith("linux-image-")]
                return suite, images[0], version
    raise Unavailable("; ".join([f"no {PACKAGES[0]} in this host's Debian sources, backports or trixie", *reasons]))


def unpack(suite, package, target):
    suite.unpack(package, target)
    shutil.rmtree(target / "usr" / "share", ignore_errors=True)
    if (target / "usr" / "lib" / "modules").exists():  # from Debian 13 on
        (target / "usr" / "lib").rename(target / "lib")
    (modules,) = (target / "lib" / "modules").iterdir()
    packed = list(modules.rglob("*.ko.xz"))
    subprocess.run(["xargs", "-0", "-P", str(os.cpu_count()), "-n", "64", "unxz"],
                   input=b"\0".join(os.fsencode(path) for path in packed), check=True)
    subprocess.run(["depmod", "-b", target, modules.name], check=True)
    (image,) = (target / "boot").glob("vmlinuz-*")
    (target / "boot" / "vmlinux").write_bytes(payload(image.read_bytes()))


def payload(image):
    """The ELF file inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset)."""
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    packed = image[start : start + length - 4]  # the last four bytes are the unpacked size
    unpacked = subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True)
    if unpacked.returncode != 0 or not unpacked.stdout.startswith(b"\x7fELF"):
        raise Unavailable("the kernel image is not packed with zstd: the config file in boot/ says with what")
    return unpacked.stdout


def link(path, target):
    """Points a symbolic link elsewhere, atomically."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.symlink_to(target)
    scratch.rename(path)
