"""The entries of chunk information, of 16 bytes (v1) or 24 (v2), packed and unpacked.

An entry says where a chunk lies; v2 keeps flags, and a checksum or the place in a piece. See
docs/format.md, "Chunk information".
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from struct import Struct

from fs.format.blobtable import MAX_CHUNK_SIZE
from fs.format.chunkcolumns import LayerChunks
from fs.format.chunkinfo import IN_A_PIECE, ChunkFlag
from fs.format.chunkrow import ChunkRow, row_of
from fs.format.errors import FormatError
from fs.format.tree import NO_CONTEXT

_V1 = Struct("<2Q")
_V2 = Struct("<3Q")
V1_SIZE, V2_SIZE = _V1.size, _V2.size
_LOW_20 = 0xFFFFF
_OFFSET_40 = (1 << 40) - 1
_BLOCK_OFFSET_44 = ((1 << 44) - 1) & ~0xFFF

_COMPRESSED, _HAS_CRC32 = int(ChunkFlag.COMPRESSED), int(ChunkFlag.HAS_CRC32)
# Plain numbers: arithmetic with those of an enumeration takes ten times as long.
_V2_FLAGS = {
    0x01: int(ChunkFlag.COMPRESSED),
    0x02: int(ChunkFlag.ZRAN),
    0x04: int(ChunkFlag.BATCH),
    0x08: int(ChunkFlag.ENCRYPTED),
    0x10: int(ChunkFlag.HAS_CRC32),
}

#: By the flags of a chunk: those of its entry, and whether it is in a piece.
_V2_BITS = bytes(
    sum(bit for bit, flag in _V2_FLAGS.items() if flags & flag) for flags in range(256)
)
_IN_A_PIECE = bytes(bool(flags & IN_A_PIECE) for flags in range(256))


def pack_columns(chunks: LayerChunks, *, v2: bool) -> bytearray:
    """The array of all rows of `chunks`, as `pack_v1` or `pack_v2` would pack them."""
    pack = _columns_v2 if v2 else _columns_v1
    if _columns_fit(chunks, MAX_CHUNK_SIZE - v2, pieces=v2):
        entries = pack(chunks)
        if sys.byteorder == "big":
            entries.byteswap()
        return bytearray(memoryview(entries).cast("B"))
    return bytearray((pack_v2 if v2 else pack_v1)(map(row_of, chunks)))  # says what does not fit


def _columns_fit(chunks: LayerChunks, max_compressed: int, *, pieces: bool) -> bool:
    """As `_check_fits` of each row."""
    in_pieces = chunks.flags.translate(_IN_A_PIECE)
    stored = zip(chunks.compressed_sizes, in_pieces, strict=True)
    return (
        min(chunks.sizes, default=1) > 0
        and max(chunks.sizes, default=0) <= MAX_CHUNK_SIZE
        and max(chunks.compressed_sizes, default=0) <= max_compressed
        and max(chunks.compressed_offsets, default=0) <= _OFFSET_40
        and not any(map((~_BLOCK_OFFSET_44).__and__, chunks.uncompressed_offsets))
        and (all(size or inside for size, inside in stored))
        and (pieces or not any(in_pieces))
    )


def _columns_v1(chunks: LayerChunks) -> array[int]:
    places = zip(chunks.sizes, chunks.uncompressed_offsets, strict=True)
    stored = zip(chunks.compressed_sizes, chunks.compressed_offsets, strict=True)
    entries = array("Q", bytes(_V1.size * len(chunks)))
    entries[0::2] = array("Q", (_first_v1(size, offset) for size, offset in places))
    entries[1::2] = array("Q", (_second_v1(size, offset) for size, offset in stored))
    return entries


def _columns_v2(chunks: LayerChunks) -> array[int]:
    places = zip(
        chunks.flags.translate(_V2_BITS), chunks.sizes, chunks.uncompressed_offsets, strict=True
    )
    stored = zip(chunks.compressed_sizes, chunks.compressed_offsets, strict=True)
    inside = zip(chunks.flags.translate(_IN_A_PIECE), chunks.contexts, chunks.withins, strict=True)
    entries = array("Q", bytes(_V2.size * len(chunks)))
    entries[0::3] = array("Q", (bits << 56 | u - 1 << 32 | at >> 12 for bits, u, at in places))
    entries[1::3] = array("Q", (size << 40 | offset for size, offset in stored))
    entries[2::3] = array("Q", (piece << 32 | at if within else 0 for within, piece, at in inside))
    return entries


def pack_v1(rows: Iterable[ChunkRow]) -> bytes:
    """The array of `rows`, which are in the order of their positions."""
    packed = bytearray()  # millions of small objects would outlive their use in memory
    for row in rows:
        packed += _V1.pack(*_entry_v1(row))
    return bytes(packed)


def _entry_v1(row: ChunkRow) -> tuple[int, int]:
    if row.flags & IN_A_PIECE:
        raise FormatError(f"chunk {row.position} needs chunk information v2")
    _check_fits(row, MAX_CHUNK_SIZE)
    return (
        _first_v1(row.uncompressed_size, row.uncompressed_offset),
        _second_v1(row.compressed_size, row.compressed_offset),
    )


def _first_v1(size: int, offset: int) -> int:
    return (size - 1 & _LOW_20) << 44 | offset | size - 1 >> 20 << 8


def _second_v1(size: int, offset: int) -> int:
    return (size - 1 & _LOW_20) << 44 | size - 1 >> 20 << 40 | offset


def pack_v2(rows: Iterable[ChunkRow]) -> bytes:
    """As `pack_v1`; keeps the flags, and the crc32 or the place in a piece that go with them."""
    packed = bytearray()
    for row in rows:
        packed += _V2.pack(*_entry_v2(row))
    return bytes(packed)


def _entry_v2(row: ChunkRow) -> tuple[int, int, int]:
    _check_fits(row, MAX_CHUNK_SIZE - 1)
    flags = sum(bit for bit, flag in _V2_FLAGS.items() if row.flags & flag)
    first = flags << 56 | row.uncompressed_size - 1 << 32 | row.uncompressed_offset >> 12
    data = row.context << 32 | row.within if row.flags & IN_A_PIECE else row.crc32
    return first, row.compressed_size << 40 | row.compressed_offset, data


def _check_fits(row: ChunkRow, max_compressed: int) -> None:
    smallest = 0 if row.flags & IN_A_PIECE else 1
    if (
        not 0 < row.uncompressed_size <= MAX_CHUNK_SIZE
        or not smallest <= row.compressed_size <= max_compressed
        or row.uncompressed_offset & ~_BLOCK_OFFSET_44
        or not 0 <= row.compressed_offset <= _OFFSET_40
    ):
        raise FormatError(f"chunk {row.position} does not fit into chunk information")


def rows_v1(entries: memoryview, positions: Iterable[int]) -> Iterator[ChunkRow]:
    """The rows at `positions` of an array of v1."""
    for position in positions:
        first, second = _V1.unpack_from(entries, position * V1_SIZE)
        usize = (first >> 44) + (first >> 8 & 0xF) * (1 << 20) + 1
        csize = (second >> 44) + (second >> 40 & 0xF) * (1 << 20) + 1
        flags = _COMPRESSED if csize != usize else 0
        yield ChunkRow(
            position, second & _OFFSET_40, csize, first & _BLOCK_OFFSET_44, usize, flags, b""
        )


def rows_v2(entries: memoryview, positions: Iterable[int]) -> Iterator[ChunkRow]:
    """The rows at `positions` of an array of v2."""
    names = {bits: sum(flag for bit, flag in _V2_FLAGS.items() if bits & bit) for bits in range(32)}
    for position in positions:
        first, second, data = _V2.unpack_from(entries, position * V2_SIZE)
        flags = names.get(first >> 56)
        if flags is None:
            raise FormatError(f"chunk {position} has unknown flags {first >> 56:#x}")
        yield ChunkRow(
            position,
            second & _OFFSET_40,
            second >> 40,
            (first & 0xFFFFFFFF) << 12,
            (first >> 32 & 0xFFFFFF) + 1,
            flags,
            b"",
            data & 0xFFFFFFFF if flags & _HAS_CRC32 else 0,
            data >> 32 if flags & IN_A_PIECE else NO_CONTEXT,
            data & 0xFFFFFFFF if flags & IN_A_PIECE else 0,
        )
