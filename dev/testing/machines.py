# SPDX-License-Identifier: Apache-2.0
"""Runs tests where KVM is: on this host if its own is usable, else in development VMs.

Such a VM uses one core of the host, so there are as many at a time as there are cores, each with
a share of the work: every level is one share, and the end-to-end tests one for each containerd.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from debs import containerd
from places import CHECKOUT, RESULTS

from .run import Counts, programs

VM_FAILED = 125  # see dev/vm --help
VM_LIMIT_SECONDS = 3000
INSIDE = "--inside"  # dev/test --inside SHARE: the half that runs in the machine
TEST = CHECKOUT / "dev" / "test"


class Share:
    """The tests that one machine runs. What to do and what came of it are files: all that a VM can leave."""

    def __init__(self, name):
        self.name = name
        self.plan, self.report = RESULTS / f"plan-{name}.json", RESULTS / f"report-{name}.json"

    def hand_out(self, level, entries, words, environment):
        RESULTS.mkdir(parents=True, exist_ok=True)
        self.plan.write_text(json.dumps([level, entries, words, environment]))
        self.report.unlink(missing_ok=True)

    def carry_out(self):
        level, entries, words, environment = json.loads(self.plan.read_text())
        os.environ.update(environment)
        counts = programs(level, entries, words, live=True)
        self.report.write_text(json.dumps([counts.passed, counts.failed, counts.skipped, counts.reasons]))
        return 1 if counts.failed else 0

    def counts(self, status):
        counts = Counts(*json.loads(self.report.read_text())) if self.report.exists() else Counts()
        if status != 0 and not counts.failed:
            counts.failed += 1  # something ended before the tests did, and has said why
            counts.reasons.append(f"the machine ended with {status}; what it said is above, behind [{self.name}]")
        counts.reasons = [f"[{self.name}] {reason}" for reason in counts.reasons]
        return counts


def run(plan, words):
    """Runs the levels of a plan and adds up."""
    shares = []
    for level, entries in plan.items():
        environments = {level: {}}
        if level == "e2e":
            environments = {f"e2e-{series}": {"CUBE_E2E_SERIES": series} for series in containerd.SUITES}
        for name, environment in environments.items():
            shares.append(Share(name))
            shares[-1].hand_out(level, entries, words, {**environment, "CUBE_REQUIRE_KVM": "1"})
    if subprocess.run([CHECKOUT / "dev" / "kvm-here"]).returncode == 0:
        return sum((share.counts(start(share, [])) for share in shares), Counts())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return sum(pool.map(in_development_vm, shares), Counts())


def in_development_vm(share):
    command = [str(CHECKOUT / "dev" / "vm"), "--timeout", str(VM_LIMIT_SECONDS)]
    status = start(share, command)
    if status == VM_FAILED:
        # Not a test's fault, and the only thing that may be run again: emulation is not hardware.
        print(f"[{share.name}] THE DEVELOPMENT VM ITSELF FAILED; running once more", flush=True)
        status = start(share, command)
    return share.counts(status)


def start(share, machine):
    """Runs a share, its output line by line behind its name, since others run beside it."""
    process = subprocess.Popen(
        # However this program ends, the machines that it started end too.
        ["setpriv", "--pdeathsig", "TERM", "--", *machine, sys.executable, TEST, INSIDE, share.name], text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    for line in process.stdout:
        print(f"[{share.name}] {line}", end="", flush=True)
    return process.wait()
