"""Ordinary OCI images of one layer, made from the entries of a tree. Deterministic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import zstandard

from fs.format.errors import local_errors
from fs.registry.descriptor import Descriptor, describe
from fs.registry.mediatypes import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from fs.registry.store import ImageWriter
from nydusify.layers.sources import Entries
from nydusify.outputs.parallel_gzip import ParallelGzip
from nydusify.outputs.tarball import Sink, TarWriter
from nydusify.report import Progress

_TYPES = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}
COMPRESSIONS = tuple(_TYPES)


class PlainLayer(NamedTuple):
    """A layer as a file. `left_out` are the sockets that a layer cannot have."""

    path: Path
    descriptor: Descriptor
    diff_id: str
    left_out: int


class Hashing:
    """Passes bytes on, and knows their digest and number."""

    def __init__(self, sink: Sink) -> None:
        self.size = 0
        self._sink = sink
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        """Whoever closes the sink flushes it."""

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


class _Closable(Sink, Protocol):
    def close(self) -> object: ...


def make_layer(entries: Entries, path: Path, compression: str = "gzip") -> PlainLayer:
    """Write `entries` as a layer to `path`."""
    with local_errors(path), path.open("wb") as file:
        packed = Hashing(file)
        compressor = _compressor(packed, compression)
        plain = Hashing(compressor)
        tar = TarWriter(plain)
        try:
            for entry in entries:
                tar.add(entry, entries.read)
            tar.finish()
            compressor.close()
        except BaseException:
            if isinstance(compressor, ParallelGzip):
                compressor.abandon()
            raise
    descriptor = Descriptor(_TYPES[compression], packed.digest(), packed.size)
    return PlainLayer(path, descriptor, plain.digest(), tar.left_out)


class _Plain:
    def __init__(self, sink: Sink) -> None:
        self.write = sink.write

    def close(self) -> None: ...


def _compressor(sink: Hashing, compression: str) -> _Closable:
    if compression == "gzip":
        return ParallelGzip(sink)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=3).stream_writer(_as_file(sink), closefd=False)
    return _Plain(sink)


def _as_file(sink: Hashing) -> Any:  # noqa: ANN401 - all that is called is write and flush
    return sink


def publish_plain(
    layer: PlainLayer,
    config: Mapping[str, Any],
    annotations: Mapping[str, str],
    writer: ImageWriter,
    progress: Progress,
    created_by: str,
) -> tuple[Descriptor, int]:
    """Push the image, the tag last. Returns the manifest's descriptor and the image's size.

    What `config` tells of layers is replaced; its history stays, without layers of its own.
    """
    progress.step("pushing layer", layer.descriptor.size)
    writer.push_blob(layer.descriptor, layer.path, progress.advance)
    raw_config = _json(_config(config, layer.diff_id, created_by))
    described = describe(raw_config, OCI_CONFIG)
    writer.push_blob(described, raw_config)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described.to_json(),
        "layers": [layer.descriptor.to_json()],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    raw = _json(document)
    manifest = writer.push_manifest(raw, OCI_MANIFEST, tag=True)
    return manifest, len(raw) + described.size + layer.descriptor.size


def _config(config: Mapping[str, Any], diff_id: str, created_by: str) -> dict[str, Any]:
    told = config.get("history") or ()
    history = [
        {**entry, "empty_layer": True}
        for entry in told
        if isinstance(entry, dict) and entry.get("comment") != "Nydus Bootstrap Layer"
    ]
    own: dict[str, Any] = {"created_by": created_by}
    if isinstance(config.get("created"), str):
        own = {"created": config["created"], **own}
    return {
        **{key: value for key, value in config.items() if key not in ("history", "rootfs")},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [*history, own],
    }


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
