# SPDX-License-Identifier: Apache-2.0
"""Our own terminal while a command in the VM has one: every key goes there, and size changes too."""

import contextlib
import os
import shutil
import signal
import termios
import tty


@contextlib.contextmanager
def raw(session):
    """Raw mode, given back at the end whatever happens. Without a terminal, only the size is sent."""
    before = termios.tcgetattr(0) if os.isatty(0) else None

    def resized(_number, _frame):
        size = shutil.get_terminal_size()
        session.send({"size": [size.lines, size.columns]})

    signal.signal(signal.SIGWINCH, resized)
    try:
        if before is not None:
            tty.setraw(0)
        yield
    finally:
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def untouched():
    return contextlib.nullcontext()
