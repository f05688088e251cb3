"""Blob files: what follows the chunk data, and how it is found from the end (stub: signatures)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fs.format.blobtable import DEFAULT_CHUNK_SIZE, BlobFeature, BlobRecord, Compressor, Digester
from fs.format.tree import Chunk


@dataclass(slots=True)
class BlobOptions:
    """How a blob is made. `inline_digests` and `toc` are what nydusd's extras read."""

    chunk_size: int = DEFAULT_CHUNK_SIZE
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    chunk_info_v2: bool = False
    inline_digests: bool = True


class Trailer(NamedTuple):
    """`data` follows the chunk data in the blob; `record` describes the whole blob."""

    data: bytes
    record: BlobRecord


class TocEntry(NamedTuple):
    """One part of a blob. Offsets in the blob; `digest` is the sha256 of its uncompressed bytes."""

    name: str
    compressor: int
    digest: bytes
    compressed_offset: int
    compressed_size: int
    uncompressed_size: int


def build_trailer(
    chunks: Sequence[Chunk],
    data_size: int,
    data_sha256: hashlib._Hash,
    options: BlobOptions,
    bootstrap: bytes | None = None,
) -> Trailer:
    """Everything after the `data_size` bytes of chunk data, and the finished blob record.

    `chunks` are the blob's chunks by position. `data_sha256` is hashlib.sha256 fed with the chunk
    data; it is not changed. The record's blob_id is the sha256 of the whole blob file
    (data + trailer); its index is for the caller to set.
    """
    raise NotImplementedError
