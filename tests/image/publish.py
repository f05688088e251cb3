"""A built image as a Nydus image in a layout or registry, by our own writer of images."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

from fs.registry import mediatypes
from fs.registry.descriptor import Descriptor, describe
from fs.registry.manifest import NYDUS_BOOTSTRAP_ANNOTATION, NYDUS_STARTUP_ANNOTATION
from fs.registry.store import StoreOptions, open_writer
from tests.image.build import BuiltImage

CONFIG = {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"], "Cmd": ["sh"]}}


def bootstrap_layer(members: list[tuple[str, bytes]]) -> bytes:
    """An uncompressed tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def publish(
    image: BuiltImage,
    place: str,
    options: StoreOptions | None = None,
    *,
    layer: bytes | None = None,
    nydus: bool = True,
    startup: bool = False,
) -> Descriptor:
    """Push `image` to `place`; `layer` takes the place of its bootstrap layer.

    `startup`: the manifest says that its blob was made for the start.
    """
    if layer is None:
        files = [("image/image.boot", image.bootstrap.read_bytes())]
        files.append((f"image/{image.record.blob_id}.blob.meta", b"m" * 8192))
        layer = gzip.compress(bootstrap_layer(files), mtime=0)
    blob = image.blob.read_bytes()
    marks = {NYDUS_BOOTSTRAP_ANNOTATION: "true"} if nydus else {}
    of_the_blob = {"containerd.io/snapshot/nydus-blob": "true"}
    if startup:
        of_the_blob[NYDUS_STARTUP_ANNOTATION] = "true"
    parts = [
        (blob, mediatypes.NYDUS_BLOB, of_the_blob),
        (layer, mediatypes.OCI_LAYER_GZIP, marks),
    ]
    config = json.dumps(CONFIG).encode()
    writer = open_writer(place, options)
    try:
        described = []
        for content, media_type, annotations in parts:
            plain = describe(content, media_type)
            writer.push_blob(plain, content)
            described.append(plain.to_json() | {"annotations": annotations})
        config_descriptor = describe(config, mediatypes.OCI_CONFIG)
        writer.push_blob(config_descriptor, config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": config_descriptor.to_json(),
            "layers": described,
        }
        return writer.push_manifest(
            json.dumps(manifest).encode(), mediatypes.OCI_MANIFEST, tag=True
        )
    finally:
        writer.close()
