"""Ordinary OCI images, whose layers are made from the entries of a tree. Deterministic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import zstandard

from fs.format.errors import local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.documents import encode_json, image_document, push_config, with_layers
from fs.registry.mediatypes import (
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from fs.registry.store import ImageWriter
from nydusify.layers.sources import Entries
from nydusify.outputs.hashing import Hashing, Sink
from nydusify.outputs.parallel_gzip import ParallelGzip
from nydusify.outputs.tarball import TarWriter
from nydusify.report import Progress

_TYPES = {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}
COMPRESSIONS = tuple(_TYPES)
_BOOTSTRAP = "Nydus Bootstrap Layer"


class PlainLayer(NamedTuple):
    """A layer as a file; without `path` it is at the target. `left_out` are the sockets that a
    layer cannot have. `is_own`: the source's history does not tell of it.
    """

    path: Path | None
    descriptor: Descriptor
    diff_id: str
    left_out: int = 0
    is_own: bool = True


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
    layers: Sequence[PlainLayer | None],
    config: Mapping[str, Any],
    annotations: Mapping[str, str],
    writer: ImageWriter,
    progress: Progress,
    created_by: str,
) -> tuple[Descriptor, int]:
    """Push the image, the tag last. Returns the manifest's descriptor and the image's size.

    `layers` are from the lowest up; None is one that the history tells of, and that is not. What
    `config` tells of layers is replaced; its history stays, without layers of its own if it does
    not tell of these.
    """
    there = [layer for layer in layers if layer is not None]
    for layer in there:
        if layer.path is not None:
            progress.step("pushing layer", layer.descriptor.size)
            writer.push_blob(layer.descriptor, layer.path, progress.advance)
    diff_ids = [layer.diff_id for layer in there]
    history = _history(config, layers, created_by)
    described = push_config(writer, with_layers(config, diff_ids, history))
    descriptors = [layer.descriptor for layer in there]
    raw = encode_json(image_document(described, descriptors, annotations))
    manifest = writer.push_manifest(raw, OCI_MANIFEST, tag=True)
    size = sum(layer.descriptor.size for layer in there)
    return manifest, len(raw) + described.size + size


def _history(
    config: Mapping[str, Any], layers: Sequence[PlainLayer | None], created_by: str
) -> list[dict[str, Any]]:
    entries = [
        dict(entry)
        for entry in config.get("history") or ()
        if isinstance(entry, dict) and entry.get("comment") != _BOOTSTRAP
    ]
    filled = [entry for entry in entries if not entry.get("empty_layer")]
    told = [layer for layer in layers if layer is None or not layer.is_own]
    fits = len(filled) == len(told)
    for entry, layer in zip(filled, told if fits else [None] * len(filled), strict=True):
        if layer is None:
            entry["empty_layer"] = True
    own: dict[str, Any] = {"created_by": created_by}
    if isinstance(config.get("created"), str):
        own = {"created": config["created"], **own}
    return entries + [own for layer in layers if layer and (layer.is_own or not fits)]
