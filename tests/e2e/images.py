"""A small real image: a base system, and a layer that deletes and replaces parts of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from fs.registry.descriptor import Descriptor, describe
from fs.registry.mediatypes import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from fs.registry.store import open_writer

CONFIG = {
    "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin", "GREETING=hello"],
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ['echo "$GREETING from $(pwd)"; cat /etc/motd'],
    "WorkingDir": "/srv/app",
}


def upper_layer() -> bytes:
    """A tar: one file deleted, one replaced, one directory made opaque, a few new things."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "etc/.wh.hosts")
        _add(tar, "etc/motd", b"replaced\n")
        _add(tar, "etc/network/.wh..wh..opq")
        _add(tar, "etc/network/only", b"new\n")
        _add(tar, "srv/app/data", bytes(range(256)) * 8192)
        link = tarfile.TarInfo("srv/app/again")
        link.type, link.linkname = tarfile.LNKTYPE, "srv/app/data"
        tar.addfile(link)
    return raw.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"") -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o644, 1_700_000_000
    tar.addfile(entry, io.BytesIO(content))


def write_image(layers: list[bytes], target: str) -> None:
    """Publish an image of plain or gzip tars at `target` (a place, as in `--target`)."""
    writer = open_writer(target)
    try:
        descriptors = []
        for layer in layers:
            packed = layer if layer[:2] == b"\x1f\x8b" else gzip.compress(layer, 6, mtime=0)
            descriptor = describe(packed, OCI_LAYER_GZIP)
            writer.push_blob(descriptor, packed)
            descriptors.append(descriptor)
        config = _config([_diff_id(layer) for layer in layers])
        writer.push_blob(describe(config, OCI_CONFIG), config)
        writer.push_manifest(_manifest(config, descriptors), OCI_MANIFEST, tag=True)
    finally:
        writer.close()


def _diff_id(layer: bytes) -> str:
    raw = gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _config(diff_ids: list[str]) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return json.dumps(document).encode()


def _manifest(config: bytes, layers: list[Descriptor]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(config, OCI_CONFIG).to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return json.dumps(document).encode()


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def manifest_of(layout: Path, tag: str) -> dict[str, Any]:
    """The manifest that `tag` names in a layout directory."""
    index = json.loads((layout / "index.json").read_text())
    name = "org.opencontainers.image.ref.name"
    entry = next(e for e in index["manifests"] if e["annotations"][name] == tag)
    manifest: dict[str, Any] = json.loads(blob_path(layout, entry["digest"]).read_text())
    return manifest


def tags_of(layout: Path) -> list[str]:
    index = layout / "index.json"
    if not index.exists():
        return []
    entries = json.loads(index.read_text())["manifests"]
    return [e["annotations"]["org.opencontainers.image.ref.name"] for e in entries]
