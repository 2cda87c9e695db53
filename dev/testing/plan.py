# SPDX-License-Identifier: Apache-2.0
"""Which test programs there are: asked of cargo, which builds them on the way."""

import json
import re
import subprocess
from pathlib import Path

from places import CHECKOUT

LEVELS = ("pure", "vm", "e2e")


def build():
    """Builds every test program; returns level -> programs, each with the name and directory cargo would use."""
    command = ["cargo", "test", "--workspace", "--locked", "--lib", "--bins", "--tests", "--no-run"]
    command += ["--message-format=json-render-diagnostics"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    plan = {level: [] for level in LEVELS}
    plan["pure"].append({"name": "dev/selftest", "path": str(CHECKOUT / "dev" / "selftest"), "directory": str(CHECKOUT)})
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
            package, target = Path(message["manifest_path"]).parent, message["target"]
            name = f"{package.relative_to(CHECKOUT)}/{target['name']}"
            plan[level(target)].append({"name": name, "path": message["executable"], "directory": str(package)})
    return {level: sorted(programs, key=lambda program: program["name"]) for level, programs in plan.items()}


def level(target):
    found = re.match(r"(vm|e2e)(_|$)", target["name"]) if target["kind"] == ["test"] else None
    return found.group(1) if found else "pure"
