# SPDX-License-Identifier: Apache-2.0
"""The guest image: what `agent/image/build` is made of."""


class Unusable(Exception):
    """An input that cannot become an image, with what to do about it."""
