"""Small images for tests, pushed through the writer under test."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass

from fs.registry.descriptor import Descriptor, describe
from fs.registry.mediatypes import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from fs.registry.platform import Platform, default_platform
from fs.registry.store import ImageWriter


@dataclass(frozen=True)
class Sample:
    """An image's parts as bytes; `blobs` maps digests to layers and configuration."""

    raw: bytes
    descriptor: Descriptor
    config: Descriptor
    layers: list[Descriptor]
    blobs: dict[str, bytes]


def tar_layer(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_image(*contents: bytes, platform: Platform | None = None, **process: object) -> Sample:
    """An image with one gzip layer a content, each with one file."""
    platform = platform or default_platform()
    tars = [tar_layer({f"file{i}": content}) for i, content in enumerate(contents)]
    layers = [gzip.compress(tar, 1, mtime=0) for tar in tars]
    config = json.dumps(
        {
            **platform.to_json(),
            "config": process,
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars],
            },
        }
    ).encode()
    descriptors = [describe(layer, OCI_LAYER_GZIP) for layer in layers]
    config_descriptor = describe(config, OCI_CONFIG)
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config_descriptor.to_json(),
            "layers": [descriptor.to_json() for descriptor in descriptors],
        }
    ).encode()
    blobs = dict(zip((d.digest for d in descriptors), layers, strict=True))
    blobs[config_descriptor.digest] = config
    return Sample(raw, describe(raw, OCI_MANIFEST), config_descriptor, descriptors, blobs)


def make_index(*samples: tuple[Sample, Platform | None]) -> bytes:
    entries = []
    for sample, platform in samples:
        fields = sample.descriptor.to_json()
        if platform:
            fields["platform"] = platform.to_json()
        entries.append(fields)
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document).encode()


def push_image(writer: ImageWriter, sample: Sample, *, tag: bool = True) -> Descriptor:
    for descriptor in (*sample.layers, sample.config):
        writer.push_blob(descriptor, sample.blobs[descriptor.digest])
    return writer.push_manifest(sample.raw, OCI_MANIFEST, tag=tag)
