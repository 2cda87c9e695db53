# SPDX-License-Identifier: Apache-2.0
"""E2B's own Python SDK, with the versions and digests of tests/sdk/requirements.txt, in a directory of the cache."""

import hashlib
import shutil
import subprocess
import sys

from debs.suite import Unavailable
from places import CACHE, CHECKOUT

REQUIREMENTS = CHECKOUT / "tests" / "sdk" / "requirements.txt"
PLACE = CACHE / "e2b-sdk"
MARK = PLACE / "requirements.sha256"


def present():
    return MARK.exists() and MARK.read_text() == wanted()


def fetch():
    shutil.rmtree(PLACE, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", PLACE]
    run([*pip, "--require-hashes", "--only-binary=:all:", "-r", REQUIREMENTS])
    MARK.write_text(wanted())
    return "there"


def wanted():
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


def run(command):
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{command[0]}: {done.stderr.strip()[-300:]}")
