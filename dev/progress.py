# SPDX-License-Identifier: Apache-2.0
"""One line a step: what is being done, what came of it, how long it took."""

import contextlib
import time


class Step:
    """What a step has to say when it is done; `None` keeps quiet about a step that did nothing."""

    result = None


@contextlib.contextmanager
def step(what):
    """Prints `what` at once and the step's result and seconds when it ends, failed or not."""
    begun = time.monotonic()
    print(f"{what}: ", end="", flush=True)
    outcome = Step()
    try:
        yield outcome
    except BaseException:
        outcome.result = "failed"
        raise
    finally:
        print(f"{outcome.result or 'done'} ({time.monotonic() - begun:.1f} s)", flush=True)
