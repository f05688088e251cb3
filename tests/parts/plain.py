"""Plain OCI images made of given layers, in an OCI layout or a registry."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import zstandard

from fs.registry.descriptor import describe
from fs.registry.mediatypes import OCI_CONFIG, OCI_MANIFEST
from fs.registry.platform import default_platform
from fs.registry.store import StoreOptions, open_writer

_LAYER = "application/vnd.oci.image.layer.v1.tar"


def write_plain_image(
    target: str, tars: Sequence[bytes], config: dict[str, Any] | None = None, packing: str = "gzip"
) -> None:
    """Publish uncompressed layer `tars` (lowest first) at `target`, as in `--target`."""
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    publish(target, [_packed(tar, packing) for tar in tars], diff_ids, config)


def publish(
    target: str,
    blobs: Sequence[tuple[str, bytes]],
    diff_ids: Sequence[str],
    config: dict[str, Any] | None = None,
) -> None:
    """The same for layers as stored (media type, bytes), whatever their diff IDs claim."""
    platform = default_platform()
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    raw_config = json.dumps(document).encode()
    descriptors = [describe(blob, media_type) for media_type, blob in blobs]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(raw_config, OCI_CONFIG).to_json(),
        "layers": [descriptor.to_json() for descriptor in descriptors],
    }
    writer = open_writer(target, StoreOptions())
    try:
        for descriptor, (_, blob) in zip(descriptors, blobs, strict=True):
            writer.push_blob(descriptor, blob)
        writer.push_blob(describe(raw_config, OCI_CONFIG), raw_config)
        writer.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, tag=True)
    finally:
        writer.close()


def _packed(tar: bytes, packing: str) -> tuple[str, bytes]:
    if packing == "gzip":
        return f"{_LAYER}+gzip", gzip.compress(tar, 1, mtime=0)
    if packing == "zstd":
        return f"{_LAYER}+zstd", zstandard.compress(tar)
    return _LAYER, tar
