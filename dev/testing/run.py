# SPDX-License-Identifier: Apache-2.0
"""Runs test programs, shows what they say, counts what passed."""

import os
import re
import subprocess
import time

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
# libtest's section of what a test said, which tests/src/suite makes in the same form
SAID = re.compile(r"^---- ([^\n]+) stdout ----\n(.*?)(?=^---- [^\n]+ stdout ----$|^(?:successes|failures):$|\Z)", re.MULTILINE | re.DOTALL)
FAILED = re.compile(r"^test (.+?) \.\.\. FAILED", re.MULTILINE)
REASON_LINES, REASON_COLUMNS = 12, 300
SKIP = re.compile(r"^skipped: ", re.MULTILINE)  # what a test prints when its host cannot run it


class Counts:
    """passed, failed, skipped, and why those failed; a skipped test has not passed."""

    def __init__(self, passed=0, failed=0, skipped=0, reasons=()):
        self.passed, self.failed, self.skipped = passed, failed, skipped
        self.reasons = list(reasons)

    def __add__(self, other):
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped, self.reasons + other.reasons)

    def __str__(self):
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def programs(level, entries, words, live):
    """Runs programs one after the other; `live` shows their output as it comes, else only a failure's."""
    return sum((program(level, entry, words, live) for entry in entries), Counts())


def program(level, entry, words, live):
    begun = time.monotonic()
    environment = {**os.environ, "CARGO_MANIFEST_DIR": entry["directory"]}
    process = subprocess.Popen(
        [entry["path"], "--show-output", *words], cwd=entry["directory"], env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    output = ""
    for line in process.stdout:
        output += line
        if live:
            print(line, end="", flush=True)
    counts = count(output, process.wait())
    if counts.failed:
        counts.reasons = [f"{entry['name']}: {reason}" for reason in reasons(output)]
        if not live:
            print(output, end="")
    print(f"test {level}: {entry['name']}: {counts} ({time.monotonic() - begun:.1f} s)", flush=True)
    return counts


def count(output, status):
    passed, failed, ignored = (sum(map(int, column)) for column in zip((0, 0, 0), *RESULT.findall(output)))
    skipped = len(SKIP.findall(output))
    if status != 0 and failed == 0:  # it died before it could count
        failed = 1
    return Counts(passed - skipped, failed, ignored + skipped)


def reasons(output):
    """Of each failed test its name and what it said, shortened; of a program that names none its last lines."""
    said = dict(SAID.findall(output))
    failed = list(dict.fromkeys(FAILED.findall(output)))
    if not failed:
        return ["its last lines: " + shortened(output.splitlines()[-REASON_LINES:])]
    return [f"{name}: {shortened(said.get(name, '').splitlines())}" for name in failed]


def shortened(lines):
    """Both ends: what was attempted, and what came of it."""
    lines = [line[:REASON_COLUMNS] for line in lines if line.strip()]
    if len(lines) > REASON_LINES:
        half = REASON_LINES // 2
        lines = [*lines[:half], "...", *lines[-half:]]
    return "\n    ".join(["", *lines])
