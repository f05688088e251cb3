"""The chunks of one blob as columns, in the order of the decoded blob.

This is what a cache works with: it maps a range of the decoded blob to the
compressed pieces that hold it, and to the digests that prove them. Rows never
overlap and never reach outside of the blob; there may be gaps between them
(padding, or chunks that this image does not use).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter

from fs.format.blobtable import MAX_CHUNK_SIZE, BlobFeature, BlobRecord
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunkrow import DIGEST_SIZE, ChunkRow
from fs.format.errors import FormatError
from fs.format.pieces import Pieces
from fs.format.tree import NO_CONTEXT

#: In such blobs chunks need not have a compressed range of their own.
_WITH_PIECES = int(BlobFeature.BATCH | BlobFeature.ZRAN)
_HOLE = int(ChunkFlag.HOLE)


class ChunkTable:
    """Rows sorted by `uncompressed_offset`; the columns are public and must not be changed.

    With `pieces` (see pieces.py), the compressed range of a row with a context is that of
    the piece which holds it, and other rows have the same. Rows without a context are pieces
    of their own.
    """

    __slots__ = (
        "_mates",
        "compressed_offsets",
        "compressed_sizes",
        "contexts",
        "crc32s",
        "digests",
        "flags",
        "pieces",
        "positions",
        "uncompressed_offsets",
        "uncompressed_sizes",
        "withins",
    )

    def __init__(
        self,
        rows: Iterable[ChunkRow],
        blob: BlobRecord,
        where: str,
        pieces: Pieces | None = None,
    ) -> None:
        """FormatError (naming `where`) when the rows contradict each other or `blob`."""
        ordered = _checked(rows, blob, where)
        self.positions = array("I", [row.position for row in ordered])
        self.compressed_offsets = array("Q", [row.compressed_offset for row in ordered])
        self.compressed_sizes = array("I", [row.compressed_size for row in ordered])
        self.uncompressed_offsets = array("Q", [row.uncompressed_offset for row in ordered])
        self.uncompressed_sizes = array("I", [row.uncompressed_size for row in ordered])
        self.crc32s = array("I", [row.crc32 for row in ordered])
        self.flags = array("H", [row.flags for row in ordered])
        #: 32 bytes a row, or empty when the digests are not known.
        self.digests = b"".join([row.digest for row in ordered])
        if len(self.digests) not in (0, DIGEST_SIZE * len(ordered)):
            raise FormatError("only some chunks have a digest", where)
        self.pieces = pieces
        self.contexts = array("i", [row.context for row in ordered] if pieces else ())
        self.withins = array("I", [row.within for row in ordered] if pieces else ())
        self._mates: dict[int, array[int]] = {}
        for row, context in enumerate(self.contexts):
            if context != NO_CONTEXT:
                self._mates.setdefault(context, array("I")).append(row)

    def piece_of(self, row: int) -> int:
        """A number that just the rows of one piece have in common."""
        if self.pieces is None or self.contexts[row] == NO_CONTEXT:
            return -1 - row
        return self.contexts[row]

    def mates(self, piece: int) -> Sequence[int]:
        """The rows of a piece, ascending."""
        return self._mates[piece] if piece >= 0 else (-1 - piece,)

    def __len__(self) -> int:
        return len(self.uncompressed_offsets)

    def row(self, index: int) -> ChunkRow:
        """Row `index` (0 to len-1; IndexError beyond)."""
        return ChunkRow(
            self.positions[index],
            self.compressed_offsets[index],
            self.compressed_sizes[index],
            self.uncompressed_offsets[index],
            self.uncompressed_sizes[index],
            self.flags[index],
            self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE],
            self.crc32s[index],
            *((self.contexts[index], self.withins[index]) if self.pieces else ()),
        )

    def find(self, blob_offset: int) -> int:
        """The row that holds byte `blob_offset` of the decoded blob, or -1."""
        index = bisect_right(self.uncompressed_offsets, blob_offset) - 1
        if index < 0:
            return -1
        end = self.uncompressed_offsets[index] + self.uncompressed_sizes[index]
        return index if blob_offset < end else -1

    def rows_between(self, start: int, end: int) -> range:
        """The rows that overlap [start, end) of the decoded blob."""
        if end <= start:
            return range(0)
        first = bisect_right(self.uncompressed_offsets, start) - 1
        if first < 0 or self.uncompressed_offsets[first] + self.uncompressed_sizes[first] <= start:
            first += 1
        return range(first, max(first, bisect_left(self.uncompressed_offsets, end)))


_BY_OFFSET = attrgetter("uncompressed_offset")


def _checked(rows: Iterable[ChunkRow], blob: BlobRecord, where: str) -> list[ChunkRow]:
    """`rows` in order, each once. v5 repeats a shared chunk with every file that has it."""
    ordered: list[ChunkRow] = []
    end = 0
    ranged = not blob.features & _WITH_PIECES
    for row in sorted(rows, key=_BY_OFFSET):
        if row.flags & _HOLE:
            continue
        if row.uncompressed_offset < end:
            if row == ordered[-1]:
                continue
            raise FormatError(
                f"blob {blob.index}: chunks overlap at {row.uncompressed_offset}", where
            )
        if not _is_possible(row, blob, ranged):
            raise _impossible(row, blob, where)
        end = row.uncompressed_offset + row.uncompressed_size
        ordered.append(row)
    return ordered


def _is_possible(row: ChunkRow, blob: BlobRecord, ranged: bool) -> bool:
    """`ranged`: it must have a compressed range of its own."""
    _, start, stored, offset, size = row[:5]
    return (
        0 < size <= MAX_CHUNK_SIZE
        and (stored > 0 or not ranged)
        and offset + size <= blob.uncompressed_size
        and start + stored <= blob.compressed_size
        and row.position < blob.chunk_count
    )


def _impossible(row: ChunkRow, blob: BlobRecord, where: str) -> FormatError:
    problem = f"chunk {row.position} lies outside of the blob"
    has_range = row.compressed_size != 0 or blob.features & _WITH_PIECES
    if not 0 < row.uncompressed_size <= MAX_CHUNK_SIZE or not has_range:
        problem = f"chunk of {row.uncompressed_size} bytes ({row.compressed_size} compressed)"
    elif row.position >= blob.chunk_count:
        problem = f"chunk {row.position} of {blob.chunk_count} chunks"
    return FormatError(f"blob {blob.index}: {problem}", where)
