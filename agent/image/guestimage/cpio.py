# SPDX-License-Identifier: Apache-2.0
"""The archive form that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst),
with nothing in it that depends on who makes it or when: owner 0, time 0, numbers in order."""


class Cpio:
    def __init__(self):
        self.parts = []
        self.inode = 0

    def add(self, path, mode, data=b"", device=(0, 0)):
        self.inode += 1
        name = path.encode() + b"\0"
        # inode mode uid gid nlink mtime size major minor rmajor rminor namesize check
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self.parts += [padded(header + name), padded(data)]

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def padded(data):
    """Both a header with its name and the data start at a multiple of four."""
    return data + b"\0" * (-len(data) % 4)
