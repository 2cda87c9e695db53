# SPDX-License-Identifier: Apache-2.0
"""virtiofsd, which serves a directory of the host to the VM. Debian 12 and 13 have different ones."""

import os

from places import Missing

# A program of its own since QEMU 8, which Debian also links to from the old place; before, part of QEMU.
SEPARATE = "/usr/libexec/virtiofsd"
QEMUS_OWN = "/usr/lib/qemu/virtiofsd"


def server(directory, cache, listener):
    """The command that serves `directory` to whoever connects to the listening descriptor.

    All of a directory is one file system to the VM, mounts below it included: overlayfs does not
    look behind a mount of the layer below it, so none may be announced as one.
    """
    if os.access(SEPARATE, os.X_OK):
        return [SEPARATE, f"--fd={listener}", f"--shared-dir={directory}", f"--cache={cache}", "--sandbox=chroot",
                "--xattr", "--no-announce-submounts", "--log-level=error"]
    if os.access(QEMUS_OWN, os.X_OK):
        return [QEMUS_OWN, f"--fd={listener}", "-o", f"source={directory},cache={cache},sandbox=chroot,xattr"]
    raise Missing(f"no virtiofsd at {SEPARATE} or {QEMUS_OWN}: run dev/setup first")
