"""The chunks of one blob as columns, in the order of the decoded blob.

This is what a cache works with: it maps a range of the decoded blob to the
compressed pieces that hold it, and to the digests that prove them. Rows never
overlap and never reach outside of the blob; there may be gaps between them
(padding, or chunks that this image does not use).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import add, le
from typing import NamedTuple, TypeVar

from fs.format.blobtable import MAX_CHUNK_SIZE, BlobFeature, BlobRecord
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunkrow import DIGEST_SIZE, ChunkRow
from fs.format.errors import FormatError
from fs.format.pieces import Pieces
from fs.format.tree import NO_CONTEXT

#: In such blobs chunks need not have a compressed range of their own.
_WITH_PIECES = int(BlobFeature.BATCH | BlobFeature.ZRAN)
_HOLE = int(ChunkFlag.HOLE)
#: Rows that are objects at one time, of what may be millions.
_PORTION = 4096
_DIGEST = ChunkRow._fields.index("digest")
_Item = TypeVar("_Item")


class Place(NamedTuple):
    """Where the chunks of a piece, or one by itself, are stored; fields as in `ChunkRow`."""

    compressed_offset: int
    compressed_size: int
    flags: int
    context: int = NO_CONTEXT
    within: int = 0


class ChunkTable:
    """Rows sorted by `uncompressed_offset`; the columns are public and must not be changed.

    With `pieces` (see pieces.py), the compressed range of a row with a context is that of
    the piece which holds it, and other rows have the same. Rows without a context are pieces
    of their own. A row costs 66 bytes, 8 more with pieces.
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

    def __init__(self, rows: Iterable[ChunkRow], blob: BlobRecord, where: str) -> None:
        """FormatError (naming `where`) when the rows contradict each other or `blob`."""
        self.positions = array("I")
        self.compressed_offsets = array("Q")
        self.compressed_sizes = array("I")
        self.uncompressed_offsets = array("Q")
        self.uncompressed_sizes = array("I")
        self.crc32s = array("I")
        self.flags = array("H")
        #: 32 bytes a row, or empty when the digests are not known.
        self.digests = b""
        self.pieces: Pieces | None = None
        self.contexts = array("i")
        self.withins = array("I")
        self._mates: dict[int, array[int]] = {}
        self._fill(rows)
        if len(self.digests) not in (0, DIGEST_SIZE * len(self)):
            raise FormatError("only some chunks have a digest", where)
        offsets = self.uncompressed_offsets
        if not all(map(le, offsets, islice(offsets, 1, None))):
            self._take(array("I", sorted(range(len(self)), key=offsets.__getitem__)))
        if not self._is_sound(blob):
            self._take(self._checked(blob, where))

    @classmethod
    def placed(cls, table: ChunkTable, places: Iterable[Place], pieces: Pieces) -> ChunkTable:
        """The rows of `table`, which shares its columns, at places in `pieces`: one for each row.

        They must be possible ones.
        """
        placed = cls.__new__(cls)
        for name in (
            "positions",
            "uncompressed_offsets",
            "uncompressed_sizes",
            "crc32s",
            "digests",
        ):
            setattr(placed, name, getattr(table, name))
        placed.pieces = pieces
        placed.compressed_offsets = array("Q")
        placed.compressed_sizes = array("I")
        placed.flags = array("H")
        placed.contexts = array("i")
        placed.withins = array("I")
        columns = (
            placed.compressed_offsets,
            placed.compressed_sizes,
            placed.flags,
            placed.contexts,
            placed.withins,
        )
        for portion in _portions(places):
            for column, values in zip(columns, zip(*portion, strict=True), strict=True):
                column.extend(values)
        placed._mates = {}
        for row, context in enumerate(placed.contexts):
            if context != NO_CONTEXT:
                placed._mates.setdefault(context, array("I")).append(row)
        return placed

    def _columns(self) -> tuple[array[int], ...]:
        """The arrays of all rows, in the order of a row's fields but for the digest."""
        return (
            self.positions,
            self.compressed_offsets,
            self.compressed_sizes,
            self.uncompressed_offsets,
            self.uncompressed_sizes,
            self.flags,
            self.crc32s,
        )

    def _fill(self, rows: Iterable[ChunkRow]) -> None:
        columns, digests = self._columns(), []
        for portion in _portions(row for row in rows if not row.flags & _HOLE):
            fields = [list(values) for values in zip(*portion, strict=True)]
            digests.append(b"".join(fields.pop(_DIGEST)))
            for column, values in zip(columns, fields, strict=False):
                column.extend(values)
        self.digests = b"".join(digests)

    def _take(self, order: Sequence[int]) -> None:
        """Keep the rows of these numbers, in this order."""
        for column in self._columns():
            column[:] = array(column.typecode, map(column.__getitem__, order))
        if self.digests:
            self.digests = b"".join(b"".join(map(self.digest, part)) for part in _portions(order))

    def _is_sound(self, blob: BlobRecord) -> bool:
        """Whether all rows are possible, and none overlaps the next: of the columns as a whole."""
        if not len(self):
            return True
        offsets, sizes = self.uncompressed_offsets, self.uncompressed_sizes
        stored = map(add, self.compressed_offsets, self.compressed_sizes)
        ranged = not blob.features & _WITH_PIECES
        return (
            min(sizes) > 0
            and max(sizes) <= MAX_CHUNK_SIZE
            and (not ranged or min(self.compressed_sizes) > 0)
            and max(map(add, offsets, sizes)) <= blob.uncompressed_size
            and max(stored) <= blob.compressed_size
            and max(self.positions) < blob.chunk_count
            and all(map(le, map(add, offsets, sizes), islice(offsets, 1, None)))
        )

    def _checked(self, blob: BlobRecord, where: str) -> list[int]:
        """The rows in order, each once: v5 repeats a shared chunk with every file that has it.

        FormatError for the first that is not possible.
        """
        kept: list[int] = []
        end = 0
        ranged = not blob.features & _WITH_PIECES
        for index in range(len(self)):
            row = self.row(index)
            if row.uncompressed_offset < end:
                if row == self.row(kept[-1]):
                    continue
                raise FormatError(
                    f"blob {blob.index}: chunks overlap at {row.uncompressed_offset}", where
                )
            if not _is_possible(row, blob, ranged):
                raise _impossible(row, blob, where)
            end = row.uncompressed_offset + row.uncompressed_size
            kept.append(index)
        return kept

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
            self.digest(index),
            self.crc32s[index],
            *((self.contexts[index], self.withins[index]) if self.pieces else ()),
        )

    def digest(self, index: int) -> bytes:
        """The digest of row `index`; empty when it is not known."""
        return self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]

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


def _portions(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    left = iter(items)
    while portion := list(islice(left, _PORTION)):
        yield portion


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
