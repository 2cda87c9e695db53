# SPDX-License-Identifier: Apache-2.0
"""An image as one tar in the OCI image layout (OCI image spec, image-layout.md)."""

import io
import json
import tarfile

from .layer import EPOCH, Packed, digest

CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Archive:
    """Collects the blobs of one image."""

    def __init__(self):
        self.blobs = {}

    def add(self, media_type, data, **more):
        """Stores a blob and returns its descriptor."""
        name = digest(data)
        self.blobs[name] = data
        return {"mediaType": media_type, "digest": name, "size": len(data), **more}

    def tar(self, index):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            files = {f"blobs/{name.replace(':', '/')}": data for name, data in self.blobs.items()}
            files["oci-layout"] = to_json({"imageLayoutVersion": "1.0.0"})
            files["index.json"] = to_json(index)
            for path, data in sorted(files.items()):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mtime, entry.mode = len(data), EPOCH, 0o644
                tar.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


def image(name, layers, command, architecture="amd64", compress=True, environment=()):
    """The bytes of an archive with one image. `name` is the full reference it is imported under."""
    archive = Archive()
    packed = [Packed(layer, compress) for layer in layers]
    platform = {"architecture": architecture, "os": "linux"}
    config = {
        **platform,
        "created": "1970-01-01T00:00:01Z",
        "config": {"Env": [PATH, *environment], "Cmd": command, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in packed]},
        "history": [{"created": "1970-01-01T00:00:01Z", "created_by": "dev/images"} for _ in packed],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": archive.add(CONFIG, to_json(config)),
        "layers": [archive.add(layer.media_type, layer.data) for layer in packed],
    }
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    entry = archive.add(MANIFEST, to_json(manifest), platform=platform, annotations=annotations)
    return archive.tar({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
