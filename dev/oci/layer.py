# SPDX-License-Identifier: Apache-2.0
"""A layer: a tar whose bytes depend on nothing but the files in it (OCI image spec, layer.md)."""

import gzip
import hashlib
import io
import os
import stat
import tarfile

EPOCH = 1  # not 0, which some programs take for "no time"


class Layer:
    """Files in the order of their paths, owned by root unless said otherwise, all from 1970."""

    def __init__(self):
        self.entries = {}

    def directory(self, path, mode=0o755, owner=0):
        self._add(path, tarfile.DIRTYPE, mode, owner)

    def file(self, path, data, mode=0o644, owner=0):
        self._add(path, tarfile.REGTYPE, mode, owner, data=data)

    def symlink(self, path, target):
        self._add(path, tarfile.SYMTYPE, 0o777, 0, link=target)

    def hardlink(self, path, target):
        """`target` has to be there, and before `path` in the order of paths."""
        original = self.entries[target][0]
        self._add(path, tarfile.LNKTYPE, original.mode, original.uid, link=target)

    def tree(self, root):
        """Everything below a directory of the host; hard links become files of their own."""
        for directory, names, files in os.walk(root):
            for name in names + files:
                self._from_host(root, os.path.join(directory, name))

    def _from_host(self, root, source):
        path, mode = os.path.relpath(source, root), os.lstat(source).st_mode
        if stat.S_ISLNK(mode):
            self.symlink(path, os.readlink(source))
        elif stat.S_ISDIR(mode):
            self.directory(path, stat.S_IMODE(mode))
        elif stat.S_ISREG(mode):
            with open(source, "rb") as file:
                self.file(path, file.read(), stat.S_IMODE(mode))

    def _add(self, path, kind, mode, owner, data=b"", link=""):
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname = kind, mode, link
        entry.uid = entry.gid = owner
        entry.size, entry.mtime = len(data), EPOCH
        self.entries[path] = (entry, data)

    def tar(self):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for _, (entry, data) in sorted(self.entries.items()):
                tar.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


class Packed:
    """A layer as it is stored: media type, bytes, and the digest of the bytes before packing."""

    def __init__(self, layer, compress):
        plain = layer.tar()
        self.diff_id = digest(plain)
        self.media_type = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")
        self.data = gzip.compress(plain, mtime=0) if compress else plain


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()
