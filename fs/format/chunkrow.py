"""One chunk of a blob as readers work with it, whether a bootstrap or a blob told of it."""

from __future__ import annotations

from typing import NamedTuple

from fs.format.chunkinfo import ChunkInfo
from fs.format.tree import NO_CONTEXT, Chunk

DIGEST_SIZE = 32


class ChunkRow(NamedTuple):
    """One chunk; sizes and offsets in bytes, `digest` empty when it is not known.

    `position` is the chunk's number in the blob's chunk information array and so its bit in
    the chunk map; `flags` are those of `ChunkFlag`, of which HAS_CRC32 goes with `crc32`, BATCH
    and ZRAN with `context` and `within`: the piece that holds the chunk, and its offset there.
    Such a chunk has a compressed size of its own only by the way, perhaps 0.
    """

    position: int
    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    uncompressed_size: int
    flags: int
    digest: bytes
    crc32: int = 0
    context: int = NO_CONTEXT
    within: int = 0

    @classmethod
    def of(cls, info: ChunkInfo) -> ChunkRow:
        """The row of a chunk record."""
        return cls(
            info.position,
            info.compressed_offset,
            info.compressed_size,
            info.uncompressed_offset,
            info.uncompressed_size,
            info.flags & 0xFF,
            info.digest,
            info.crc32,
        )


def row_of(chunk: Chunk) -> ChunkRow:
    """The row of a chunk as a tree has it."""
    return ChunkRow(
        chunk.position,
        chunk.compressed_offset,
        chunk.compressed_size,
        chunk.uncompressed_offset,
        chunk.uncompressed_size,
        chunk.flags,
        chunk.digest,
        chunk.crc32,
        chunk.context,
        chunk.within,
    )
