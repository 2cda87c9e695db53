# SPDX-License-Identifier: Apache-2.0
"""A private apt: its own lists, its own cache, nothing installed, the host's apt untouched.

Mirrors and keyrings are those of the host's own Debian sources; only the suite's name changes. So
no mirror is named here, and a proxy or a local mirror that the host uses is used here as well.
"""

import dataclasses
import os
import re
import subprocess
from pathlib import Path

from places import CACHE

APT = Path("/etc/apt")
LISTS = CACHE / "apt"  # worth keeping for one run of dev/fetch, which removes it


class Unavailable(Exception):
    """A suite, or a package in it, cannot be had from the host's mirrors."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One `deb` line."""

    options: str
    uri: str
    suite: str
    components: str

    def line(self):
        return f"deb {self.options}{self.uri} {self.suite} {self.components}\n"


class Suite:
    """Debian packages as seen from a list of sources."""

    def __init__(self, name, sources):
        if not sources:
            raise Unavailable(f"no Debian source to take {name} from in {APT}")
        self.name = name
        self.directory = LISTS / name
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").touch()
        (self.directory / "sources.list").write_text("".join(source.line() for source in sources))
        self._apt("apt-get", "update", "-q", "--error-on=any")

    def candidate(self, package):
        """The version that would be fetched, or None."""
        found = re.search(r"Candidate: (\S+)", self._apt("apt-cache", "policy", package))
        return found.group(1) if found and found.group(1) != "(none)" else None

    def depends(self, package):
        """The names that a package depends on."""
        return re.findall(r"^ *Depends: (\S+)", self._apt("apt-cache", "depends", package), re.MULTILINE)

    def unpack(self, package, target):
        """Fetches the candidate version and unpacks it over `target`."""
        self._apt("apt-get", "download", "-q", package, cwd=self.directory)
        (archive,) = self.directory.glob(f"{package}_*.deb")
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", archive, target], check=True)
        archive.unlink()

    def unpack_with_dependencies(self, packages, target):
        """Unpacks packages and everything that they need on an empty system."""
        self._apt("apt-get", "install", "-q", "--yes", "--download-only", "--no-install-recommends", *packages)
        target.mkdir(parents=True, exist_ok=True)
        for archive in sorted((self.directory / "cache" / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", archive, target], check=True)

    def _apt(self, program, *arguments, cwd=None):
        here = self.directory
        options = {
            "Dir::Etc::sourcelist": here / "sources.list", "Dir::Etc::sourceparts": "-", "Dir::State": here / "state",
            "Dir::State::status": here / "status", "Dir::Cache": here / "cache", "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false", "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
        }
        command = [program, *(f"-o{name}={value}" for name, value in options.items()), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "LC_ALL": "C"})
        if done.returncode != 0:
            reason = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["E: no reason given"]
            raise Unavailable(f"{program} {' '.join(arguments)} in {self.name}: {reason[0][3:]}")
        return done.stdout


def codename():
    """The host's Debian release, as `bookworm`."""
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    if not found or not re.search(r"^ID=debian$", release, re.MULTILINE):
        raise Unavailable("this host is not Debian 12 or later, so its sources do not say where Debian packages are")
    return found.group(1)


def host_sources():
    """The host's own Debian sources: those of its release and that release's updates."""
    ours = re.compile(rf"(stable|{codename()})(-\w+)*/?$")
    return [source for source in all_sources() if ours.match(source.suite)]


def sources_of(suite):
    """The host's main Debian source, with another suite's name in it."""
    main = [source for source in all_sources() if source.suite in (codename(), "stable")]
    return [dataclasses.replace(source, suite=suite, components="main") for source in main[:1]]


def all_sources():
    files = [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*.list"))]
    for file in filter(Path.exists, files):
        yield from filter(None, map(parse_line, file.read_text().splitlines()))
    for file in sorted((APT / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            yield from parse_stanza(stanza)


def parse_line(line):
    """The one-line form (sources.list(5)), or None."""
    found = re.match(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(\S.*)", line)
    return Source(found[1] or "", found[2], found[3], found[4]) if found else None


def parse_stanza(stanza):
    """deb822 (sources.list(5)), the one-file fields that Debian's installer and images write."""
    lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
    pairs = re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", lines, re.MULTILINE)
    fields = {name.lower(): value.split() for name, value in pairs}
    if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false"):
        return
    signer = fields.get("signed-by", [])
    options = f"[signed-by={signer[0]}] " if len(signer) == 1 and signer[0].startswith("/") else ""
    for uri in fields.get("uris", []):
        for suite in fields.get("suites", []):
            yield Source(options, uri, suite, " ".join(fields.get("components", [])))
