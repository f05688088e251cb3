"""The chunk map: which chunks of a blob a local cache holds, one bit each.

A 4096-byte header, then the bitmap: chunk 0 is the highest bit of the first
byte. nydusd's file shape, so that caches can be shared; see docs/format.md,
"Chunk map". Only the shape is here; the file belongs to the cache.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from fs.format.buffer import Buffer
from fs.format.errors import FormatError

HEADER_SIZE = 4096
_MAGIC = 0x424D4150
_MAGIC2 = 0x434D4150
_ALL_READY = 0x4D4D4150
_VERSION = 1

_HEADER = Struct("<4I")


class ChunkMapHeader(NamedTuple):
    version: int = _VERSION
    all_ready: bool = False

    def pack(self) -> bytes:
        """The 4096 bytes in front of the bitmap."""
        ready = _ALL_READY if self.all_ready else 0
        return _HEADER.pack(_MAGIC, self.version, _MAGIC2, ready).ljust(HEADER_SIZE, b"\0")


def file_size(chunk_count: int) -> int:
    """Bytes of the whole file for a blob of `chunk_count` chunks."""
    return HEADER_SIZE + (chunk_count + 7) // 8


def unpack_header(data: Buffer, chunk_count: int, name: str) -> ChunkMapHeader:
    """The header of a whole chunk map file; FormatError if it is not one for `chunk_count`."""
    if len(data) != file_size(chunk_count):
        raise FormatError(
            f"{len(data)} bytes, expected {file_size(chunk_count)} for {chunk_count} chunks", name
        )
    magic, version, magic2, ready = _HEADER.unpack_from(data)
    if magic != _MAGIC or (version >= 1 and magic2 != _MAGIC2):
        raise FormatError("not a chunk map", name)
    return ChunkMapHeader(version, version >= 1 and ready == _ALL_READY)


def bit(position: int) -> tuple[int, int]:
    """Byte offset in the file and mask of the bit of chunk `position`."""
    return HEADER_SIZE + (position >> 3), 0x80 >> (position & 7)


def new_map(chunk_count: int) -> bytearray:
    """A whole chunk map file that holds nothing yet."""
    data = bytearray(file_size(chunk_count))
    data[:HEADER_SIZE] = ChunkMapHeader().pack()
    return data


def count_ready(data: Buffer) -> int:
    """How many bits of a whole chunk map file are set."""
    return int.from_bytes(memoryview(data)[HEADER_SIZE:], "little").bit_count()
