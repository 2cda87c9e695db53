# SPDX-License-Identifier: Apache-2.0
"""The development VM: QEMU emulating AMD-V in software, rooted in the host's own files.

    cli       what was asked -> a Request
    machine   the processes: virtiofsd for the shares, QEMU for the machine
    kernel    which kernel, and the small initramfs that mounts the root
    disk      the XFS disk: fresh and nameless, or kept
    session   the conversation: streams, exit code, console, time-out
    guest/    what runs inside: init.sh (mounts), pid1.py (runs the command)

Nothing here has a name on the host while it runs: sockets are inherited descriptors and a
fresh disk is an unlinked file, so no end, however abrupt, can leave any of it behind.
"""
