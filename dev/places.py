# SPDX-License-Identifier: Apache-2.0
"""Where the development tools keep things."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("CUBE_CACHE") or "/var/cache/cube")  # outlives the checkout and `make clean`
RESULTS = CHECKOUT / "target" / "results"  # what a development VM can write to


class Missing(Exception):
    """Something that `dev/setup` provides is not there."""
