"""The 80-byte chunk record that v5 inodes and the chunk table of v6 both use.

See docs/format.md, "Chunk table".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import IntFlag
from struct import Struct
from typing import NamedTuple, cast

# digest, blob_index, flags, compressed_size, uncompressed_size, compressed_offset,
# uncompressed_offset, file_offset, position ("index"), crc32
CHUNK_INFO = Struct("<32s4I3Q2I")
CHUNK_INFO_SIZE = 80
assert CHUNK_INFO.size == CHUNK_INFO_SIZE
_OWNER = Struct("<32xI44x")
assert _OWNER.size == CHUNK_INFO_SIZE


class ChunkFlag(IntFlag):
    COMPRESSED = 0x1
    HOLE = 0x2
    ENCRYPTED = 0x4
    BATCH = 0x8
    HAS_CRC32 = 0x10
    #: Only in a `ChunkTable` made from chunk information: no bootstrap has this bit.
    ZRAN = 0x100


#: Flags of chunks that have no compressed range of their own (see contexts.py).
IN_A_PIECE = int(ChunkFlag.BATCH | ChunkFlag.ZRAN)


class ChunkInfo(NamedTuple):
    """One chunk; field order is that on disk. Sizes and offsets in bytes."""

    digest: bytes
    blob_index: int
    flags: int
    compressed_size: int
    uncompressed_size: int
    compressed_offset: int
    uncompressed_offset: int
    file_offset: int
    position: int
    crc32: int

    def pack(self) -> bytes:
        return CHUNK_INFO.pack(*self)


def iter_chunk_infos(table: memoryview) -> Iterator[ChunkInfo]:
    """The records of a table whose length is a multiple of 80."""
    return cast(Iterator[ChunkInfo], map(ChunkInfo._make, CHUNK_INFO.iter_unpack(table)))


def chunk_owners(table: memoryview) -> array[int]:
    """The blob index of each record, without a look at the rest of it."""
    return array("I", [owner for (owner,) in _OWNER.iter_unpack(table)])
