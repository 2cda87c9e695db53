# SPDX-License-Identifier: Apache-2.0
"""The images that E2B's SDKs expect under the names `base` and `code-interpreter`.

    base               Debian with bash, coreutils, python3, node, git, curl, sudo and the user `user`
    code_interpreter   that, and e2b-bridge/interpreter with the Python packages it names

Debian's packages are unpacked, not installed: what their scripts would have done and is needed is done
here. Python's packages have the versions and digests of requirements.txt.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from debs.suite import Suite, Unavailable, host_sources
from places import CHECKOUT

from .archive import image
from .layer import Layer

INTERPRETER = CHECKOUT / "e2b-bridge" / "interpreter"
USER = 1000
PACKAGES = [
    "base-files", "bash", "bsdutils", "ca-certificates", "coreutils", "curl", "debianutils", "diffutils", "findutils", "gawk",
    "git", "grep", "gzip", "hostname", "less", "libc-bin", "ncurses-base", "nodejs", "openssl", "procps", "python3",
    "python3-pip", "python3-venv", "sed", "sudo", "tar", "util-linux", "xz-utils",
]
PASSWD = b"""root:x:0:0:root:/root:/bin/bash
user:x:1000:1000:user:/home/user:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = b"root:x:0:\nsudo:x:27:user\nuser:x:1000:\nnogroup:x:65534:\n"
SHADOW = b"root:*:19000:0:99999:7:::\nuser:*:19000:0:99999:7:::\n"
SUDOERS = b"Defaults env_reset,!use_pty\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) NOPASSWD: ALL\n"
# What libpam-runtime would have made (pam-auth-update(8)).
PAM = {
    "auth": b"auth required pam_unix.so\n",
    "account": b"account required pam_unix.so\n",
    "password": b"password required pam_unix.so\n",
    "session": b"session required pam_permit.so\n",
    "session-noninteractive": b"session required pam_permit.so\n",
}
PROFILE = b"""export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
UNWANTED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/bash-completion", "usr/share/nodejs/npm",
    "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/systemd", "usr/lib/valgrind", "usr/include", "var/cache", "var/lib/dpkg",
    *(f"usr/lib/python3*/{name}" for name in ("test", "idlelib", "lib2to3", "turtledemo")),
)
SITE = "usr/local/lib/python3.11/dist-packages"


def base():
    return image("docker.io/library/base:latest", [system()], ["bash"], compress=False)


def code_interpreter():
    name = "docker.io/library/code-interpreter:latest"
    command = ["python3", "-m", "cube_interpreter", "--cwd", "/home/user"]
    return image(name, [system(), interpreter()], command, compress=False, environment=["MPLBACKEND=module://matplotlib_inline.backend_inline"])


def system():
    """A Debian that was never installed."""
    layer = Layer()
    with tempfile.TemporaryDirectory(prefix="cube-image-") as scratch:
        root = Path(scratch)
        Suite("e2b", host_sources()).unpack_with_dependencies(PACKAGES, root)
        from .recipes import merge_usr, precompile

        for pattern in UNWANTED:
            for path in root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        merge_usr(root)
        finish(root)
        precompile(root)
        layer.tree(root)
    for path, mode in (("etc/shadow", 0o640), ("etc/sudoers", 0o440)):
        layer.file(path, SHADOW if path.endswith("shadow") else SUDOERS, mode)
    layer.file("etc/passwd", PASSWD)
    layer.file("etc/group", GROUP)
    layer.file("etc/profile", PROFILE)
    for name, text in PAM.items():
        layer.file(f"etc/pam.d/common-{name}", text)
    layer.directory("root", mode=0o700)
    layer.directory("home", mode=0o755)
    layer.directory("home/user", owner=USER)
    for path in ("tmp", "var/tmp"):
        layer.directory(path, mode=0o1777)
    layer.symlink("usr/local/bin/python", "/usr/bin/python3")
    return layer


def finish(root):
    """What the packages' own scripts do: the loader's cache, the list of certificates, alternatives."""
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(path.read_bytes() for path in certificates))
    for name, target in (("awk", "gawk"), ("pager", "less"), ("sh", "dash")):
        link = root / "usr/bin" / name
        if not link.exists() and (root / "usr/bin" / target).exists():
            link.symlink_to(target)
    subprocess.run(["chroot", root, "/usr/sbin/ldconfig"], check=True)


def interpreter():
    """Python's packages for Debian's Python, the interpreter itself and its kernels."""
    layer = Layer()
    with tempfile.TemporaryDirectory(prefix="cube-image-") as scratch:
        root = Path(scratch)
        site = root / SITE
        install = ["/usr/bin/python3", "-m", "pip", "install", "--quiet", "--require-hashes", "--no-compile", "--target", site]
        install += ["--python-version", "3.11", "--only-binary=:all:", "-r", INTERPRETER / "requirements.txt"]
        done = subprocess.run([*install, "--disable-pip-version-check"], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"pip could not fetch the interpreter's packages: {done.stderr.strip()[-300:]}")
        for unwanted in ("**/tests", "**/__pycache__", "bin"):
            for path in list(site.glob(unwanted)):
                shutil.rmtree(path)
        shutil.copytree(INTERPRETER / "cube_interpreter", site / "cube_interpreter", ignore=shutil.ignore_patterns("__pycache__"))
        kernels = root / "usr/local/share/jupyter/kernels"
        shutil.copytree(INTERPRETER / "kernels", kernels, dirs_exist_ok=True)
        layer.tree(root)
    return layer


RECIPES = {"base": base, "code-interpreter": code_interpreter}
