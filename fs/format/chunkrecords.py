"""The chunk table while files are written: one record for each chunk of a blob, sorted at the end.

Images have millions of chunks. Those that are kept as columns are only marked, and become
records as the table is written; the others are kept packed, and found by their position in the
blob. Sorting goes by the first byte of the digest, so that few keys exist at a time.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import add
from struct import Struct
from typing import BinaryIO

from fs.format.chunkcolumns import DIGEST_SIZE, LayerChunks
from fs.format.chunkinfo import CHUNK_INFO, CHUNK_INFO_SIZE, ChunkFlag
from fs.format.errors import FormatError
from fs.format.tree import Chunk

_KEY_SIZE = 36  # digest and blob index
_FILE_OFFSET = 64
_PARTS = 256
_NUMBER = Struct("<Q")
#: That of a slice of a gzip file is told by the chunk information alone.
_STORED_FLAGS = ~int(ChunkFlag.ZRAN)
_MAX_CHUNKS = 1 << 24
_MAX_BLOCKS = 0xFFFFFFFF


class UsedRows:
    """Which rows of `table` files have. `places`: as the n-th chunk of a file, 0 for unused."""

    __slots__ = ("_chunk_size", "_parts", "device", "offsets", "places", "sizes", "table")

    def __init__(self, table: LayerChunks, chunk_size: int) -> None:
        self.table = table
        self.sizes = table.sizes
        self.offsets = table.uncompressed_offsets
        #: The blob as chunk indexes have it.
        self.device = table.blob_index + 1 << 16
        self.places = array("I", bytes(4 * len(table)))
        self._chunk_size = chunk_size
        self._parts: dict[int, array[int]] = {}

    def fit(self, block_size: int, blob_size: int) -> bool:
        """Whether any row can stand in chunk indexes, and in a blob of `blob_size` bytes."""
        table, offsets = self.table, self.offsets
        return (
            len(table) <= _MAX_CHUNKS
            and len(table.digests) == DIGEST_SIZE * len(table)
            and max(map(add, offsets, self.sizes), default=0) <= blob_size
            and max(offsets, default=0) // block_size < _MAX_BLOCKS
            and not any(map((block_size - 1).__and__, offsets))
        )

    def has(self, number: int) -> bool:
        """Whether a file has that row."""
        return number < len(self.places) and self.places[number] > 0

    def move_to(self, records: ChunkRecords) -> None:
        for number, place in enumerate(self.places):
            if place:
                records.add(self.table.own(number), (place - 1) * self._chunk_size)

    def sort(self) -> int:
        """To be called after the last file. Returns how many rows are used."""
        parts: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))
        first_bytes = self.table.digests[::DIGEST_SIZE]
        for number, (first, place) in enumerate(zip(first_bytes, self.places, strict=True)):
            if place:
                parts[first].append(number)
        self._parts = dict(parts)
        return sum(map(len, parts.values()))

    def part(self, first: int) -> Iterator[bytes]:
        """The records whose digest begins with `first`, in no order."""
        table, rows, size = self.table, self._parts.get(first), DIGEST_SIZE
        if not rows:
            return iter(())
        return map(
            CHUNK_INFO.pack,
            [table.digests[size * row : size * row + size] for row in rows],
            repeat(table.blob_index),
            map(table.flags.__getitem__, rows),
            map(table.compressed_sizes.__getitem__, rows),
            map(table.sizes.__getitem__, rows),
            map(table.compressed_offsets.__getitem__, rows),
            map(table.uncompressed_offsets.__getitem__, rows),
            [(self.places[row] - 1) * self._chunk_size for row in rows],
            rows,
            repeat(0),
        )


class ChunkRecords:
    """`repeating` says of each blob whether a digest may stand at several places of it."""

    def __init__(self, repeating: Sequence[bool]) -> None:
        self._repeating = repeating
        self._records = bytearray()
        #: By blob and position: the number of the record, from 1 on.
        self._numbers = [array("I") for _ in repeating]
        self._others: dict[bytes, int] = {}
        self._parts: list[array[int]] = []

    def has_blob(self, blob_index: int) -> bool:
        """Whether there is a record of that blob."""
        return len(self._numbers[blob_index]) > 0

    def add(self, chunk: Chunk, file_offset: int) -> None:
        """Note that a file has the chunk at `file_offset`.

        The chunk's blob and position must be possible ones.
        """
        record = CHUNK_INFO.pack(
            chunk.digest,
            chunk.blob_index,
            chunk.flags & _STORED_FLAGS,
            chunk.compressed_size,
            chunk.uncompressed_size,
            chunk.compressed_offset,
            chunk.uncompressed_offset,
            file_offset,
            chunk.position,
            chunk.crc32,
        )
        numbers = self._numbers[chunk.blob_index]
        if chunk.position >= len(numbers):
            numbers.frombytes(bytes(4 * (chunk.position + 1 - len(numbers))))
        number = numbers[chunk.position]
        if not number:
            numbers[chunk.position] = self._append(record)
            return
        if not self._is(number, record):  # tar files that serve as blobs may lack positions
            number = self._others.get(record[:_KEY_SIZE], 0)
            if not number or not self._is(number, record):
                self._others[record[:_KEY_SIZE]] = self._append(record)
                return
        start = (number - 1) * CHUNK_INFO_SIZE
        _NUMBER.pack_into(self._records, start + _FILE_OFFSET, file_offset)

    def sort(self) -> int:
        """To be called after the last `add`. Returns how many chunks there are.

        FormatError if a blob has the same chunk twice.
        """
        records = self._records
        self._numbers.clear()
        self._others.clear()
        parts = [array("Q") for _ in range(_PARTS)]
        for start in range(0, len(records), CHUNK_INFO_SIZE):
            parts[records[start]].append(start)
        self._parts = list(map(self._sorted_part, parts))
        return sum(map(len, self._parts))

    def part(self, first: int) -> Iterator[bytes]:
        """The records whose digest begins with `first`."""
        return (bytes(self._records[at : at + CHUNK_INFO_SIZE]) for at in self._parts[first])

    def _sorted_part(self, part: array[int]) -> array[int]:
        records = self._records
        found = array("Q")
        previous = bytearray()
        for start in sorted(part, key=lambda start: records[start : start + _KEY_SIZE]):
            key = records[start : start + _KEY_SIZE]
            if key == previous:
                index = int.from_bytes(key[DIGEST_SIZE:], "little")
                if not self._repeating[index]:
                    raise _twice(index)
                found.pop()  # the last one counts
            found.append(start)
            previous = key
        return found

    def _append(self, record: bytes) -> int:
        self._records += record
        return len(self._records) // CHUNK_INFO_SIZE

    def _is(self, number: int, record: bytes) -> bool:
        """Whether it is that record, but for the offset in a file."""
        start = (number - 1) * CHUNK_INFO_SIZE
        known = self._records
        return (
            known[start : start + _FILE_OFFSET] == record[:_FILE_OFFSET]
            and known[start + _FILE_OFFSET + 8 : start + CHUNK_INFO_SIZE]
            == record[_FILE_OFFSET + 8 :]
        )


class SortedRecords:
    """The finished table, of records and of rows. `size` in bytes."""

    def __init__(self, records: ChunkRecords, used: Sequence[UsedRows]) -> None:
        """No blob may be in both. FormatError if one has the same chunk twice."""
        self._sources: list[ChunkRecords | UsedRows] = [records, *used]
        self.size = CHUNK_INFO_SIZE * (records.sort() + sum(rows.sort() for rows in used))

    def write(self, out: BinaryIO) -> None:
        """Write the table. FormatError if a blob has the same chunk twice."""
        for first in range(_PARTS):
            records = [record for source in self._sources for record in source.part(first)]
            records.sort()
            previous = b""
            for record in records:
                key = record[:_KEY_SIZE]
                if key == previous:
                    raise _twice(int.from_bytes(key[DIGEST_SIZE:], "little"))
                previous = key
            out.write(b"".join(records))


def _twice(blob_index: int) -> FormatError:
    return FormatError(f"blob {blob_index} has the same chunk at two places")
