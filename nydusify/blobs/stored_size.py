"""How many stored bytes a chunk stands for, also where it is stored together with others."""

from __future__ import annotations

from typing import Protocol

from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunktable import ChunkTable

_TAR_HEADER = 512


class Stored(Protocol):
    """A chunk, or a row of a chunk table."""

    @property
    def flags(self) -> int: ...
    @property
    def compressed_size(self) -> int: ...
    @property
    def uncompressed_size(self) -> int: ...


def stored_size(chunk: Stored, blob: BlobRecord) -> int:
    """Its compressed size; for one of several in a batch or slice, its share of the blob.

    Then what the chunk says of itself is the size of the whole piece, or nothing.
    """
    in_a_piece = chunk.flags & ChunkFlag.BATCH or blob.features & BlobFeature.ZRAN
    if not in_a_piece or not blob.uncompressed_size:
        return chunk.compressed_size
    data = data_size(blob)
    blocks = chunk.uncompressed_size + -chunk.uncompressed_size % 4096
    return min(data, blocks * data // blob.uncompressed_size)


def unused_size(table: ChunkTable, blob: BlobRecord) -> int:
    """Stored bytes of chunks that are not in `table`; with pieces, by shares."""
    if len(table) >= blob.chunk_count:
        return 0
    if blob.features & (BlobFeature.BATCH | BlobFeature.ZRAN) and blob.uncompressed_size:
        used = sum(size + -size % 4096 for size in table.uncompressed_sizes)
        left = max(0, blob.uncompressed_size - used)
        return left * data_size(blob) // blob.uncompressed_size
    return max(0, data_size(blob) - sum(table.compressed_sizes))


def data_size(blob: BlobRecord) -> int:
    """Stored bytes of all chunks: what comes before the blob's own tables."""
    return max(0, blob.ci_offset - _TAR_HEADER) if blob.ci_offset else blob.compressed_size
