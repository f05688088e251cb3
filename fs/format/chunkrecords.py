"""The chunk table while files are written: one record for each chunk of a blob, sorted at the end.

Images have millions of chunks, so the records are kept packed, and are found by
the position of the chunk in its blob.
"""

from __future__ import annotations

from array import array
from struct import Struct
from typing import BinaryIO

from fs.format.chunkinfo import CHUNK_INFO, CHUNK_INFO_SIZE, ChunkFlag
from fs.format.errors import FormatError
from fs.format.tree import Chunk

_KEY_SIZE = 36  # digest and blob index
_FILE_OFFSET = 64
_AT_ONCE = 4096
_NUMBER = Struct("<Q")
#: That of a slice of a gzip file is told by the chunk information alone.
_STORED_FLAGS = ~int(ChunkFlag.ZRAN)


class ChunkRecords:
    """`repeating` says of each blob whether a digest may stand at several places of it."""

    def __init__(self, repeating: list[bool]) -> None:
        self._repeating = repeating
        self._records = bytearray()
        #: By blob and position: the number of the record, from 1 on.
        self._numbers = [array("I") for _ in repeating]
        self._others: dict[bytes, int] = {}
        self._starts = array("Q")

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

    def sort(self) -> ChunkRecords:
        """To be called after the last `add`. FormatError if a blob has the same chunk twice."""
        records = self._records
        self._numbers.clear()
        self._others.clear()
        # By the first byte of the digest, so that few keys exist at a time.
        parts = [array("Q") for _ in range(256)]
        for start in range(0, len(records), CHUNK_INFO_SIZE):
            parts[records[start]].append(start)
        for part in parts:
            self._sort_part(part)
        return self

    def _sort_part(self, part: array[int]) -> None:
        records = self._records
        previous = bytearray()
        for start in sorted(part, key=lambda start: records[start : start + _KEY_SIZE]):
            key = records[start : start + _KEY_SIZE]
            if key == previous:
                index = int.from_bytes(key[32:], "little")
                if not self._repeating[index]:
                    raise FormatError(f"blob {index} has the same chunk at two places")
                self._starts.pop()  # the last one counts
            self._starts.append(start)
            previous = key

    @property
    def size(self) -> int:
        """Of the sorted table in bytes."""
        return len(self._starts) * CHUNK_INFO_SIZE

    def write(self, out: BinaryIO) -> None:
        """Write the sorted table."""
        view = memoryview(self._records)
        for first in range(0, len(self._starts), _AT_ONCE):
            some = self._starts[first : first + _AT_ONCE]
            out.write(b"".join([view[start : start + CHUNK_INFO_SIZE] for start in some]))

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
