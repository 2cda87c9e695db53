# SPDX-License-Identifier: Apache-2.0
"""Replacing a directory by another in one step."""

import ctypes
import os

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def replace(directory, scratch):
    """Afterwards `directory` is what `scratch` was, and `scratch` what `directory` was, if it was there."""
    if not directory.exists():
        scratch.rename(directory)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(scratch), os.fsencode(directory)
    if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(directory))
