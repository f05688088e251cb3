"""The chunks of a layer as columns, and the contents of its files as references into them.

A layer may have millions of chunks and files. A column costs some 60 bytes a chunk, a file's
content a few words; the chunks themselves are made when they are looked at. Which blob of
the image holds a chunk is decided late, when the layers are merged, and here alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import overload

from fs.format.tree import Chunk

DIGEST_SIZE = 32
#: In the column of contexts, since Chunk has -1 for it.
_ALONE = 0xFFFFFFFF


class LayerChunks(Sequence[Chunk]):
    """Chunks by number. Numbers below `own` are those of the layer's blob, by position.

    `blob_index` is the blob's place in the image. A number in `elsewhere` stands for a chunk that
    another table has: (table, number there), of that table's blob.
    """

    __slots__ = (
        "blob_index",
        "compressed_offsets",
        "compressed_sizes",
        "contexts",
        "digests",
        "elsewhere",
        "flags",
        "sizes",
        "uncompressed_offsets",
        "withins",
    )

    def __init__(self) -> None:
        self.blob_index = 0
        self.digests = bytearray()
        self.sizes = array("I")
        self.flags = bytearray()
        self.compressed_offsets = array("Q")
        self.compressed_sizes = array("I")
        self.uncompressed_offsets = array("Q")
        self.contexts = array("I")
        self.withins = array("I")
        self.elsewhere: dict[int, tuple[LayerChunks, int]] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, number: int) -> Chunk: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Chunk]: ...

    def __getitem__(self, number: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(number, slice):
            return [self.chunk(each) for each in range(*number.indices(len(self)))]
        return self.chunk(range(len(self))[number])

    def __iter__(self) -> Iterator[Chunk]:
        return map(self.chunk, range(len(self)))

    def chunk(self, number: int) -> Chunk:
        """Chunk `number`, wherever it is."""
        if number in self.elsewhere:
            table, number = self.elsewhere[number]
            return table.own(number)
        return self.own(number)

    def own(self, number: int) -> Chunk:
        """Chunk `number` as this table has it."""
        context = self.contexts[number]
        return Chunk(
            self.digest(number),
            self.blob_index,
            number,
            self.compressed_offsets[number],
            self.compressed_sizes[number],
            self.uncompressed_offsets[number],
            self.sizes[number],
            self.flags[number],
            0,
            -1 if context == _ALONE else context,
            self.withins[number],
        )

    def digest(self, number: int) -> bytes:
        return bytes(self.digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE])

    def append(self, digest: bytes, size: int) -> int:
        """A new chunk, of which only these are known; returns its number."""
        number = len(self.sizes)
        self.digests += digest
        self.sizes.append(size)
        self.flags.append(0)
        self.compressed_offsets.append(0)
        self.compressed_sizes.append(0)
        self.uncompressed_offsets.append(0)
        self.contexts.append(_ALONE)
        self.withins.append(0)
        return number

    def reorder(self, order: Sequence[int]) -> None:
        """Number anew: what was `order[n]` becomes n."""
        view = memoryview(self.digests)
        self.digests = bytearray().join(
            [view[n * DIGEST_SIZE : (n + 1) * DIGEST_SIZE] for n in order]
        )
        for name in ("sizes", "compressed_sizes", "contexts", "withins"):
            setattr(self, name, array("I", map(getattr(self, name).__getitem__, order)))
        for name in ("compressed_offsets", "uncompressed_offsets"):
            setattr(self, name, array("Q", map(getattr(self, name).__getitem__, order)))
        self.flags = bytearray(map(self.flags.__getitem__, order))


class FileChunks(Sequence[Chunk]):
    """A file's content: `length` chunks of `table`, numbered from `first` on."""

    __slots__ = ("first", "length", "table")

    def __init__(self, table: LayerChunks, first: int, length: int) -> None:
        self.table = table
        self.first = first
        self.length = length

    @property
    def numbers(self) -> Sequence[int]:
        return range(self.first, self.first + self.length)

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, place: int) -> Chunk: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Chunk]: ...

    def __getitem__(self, place: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(place, slice):
            return [self.table.chunk(number) for number in self.numbers[place]]
        return self.table.chunk(self.numbers[place])

    def __iter__(self) -> Iterator[Chunk]:
        return map(self.table.chunk, self.numbers)


class ScatteredChunks(FileChunks):
    """A file's content whose chunks do not follow each other."""

    __slots__ = ("_numbers",)

    def __init__(self, table: LayerChunks, numbers: array[int]) -> None:
        super().__init__(table, numbers[0], len(numbers))
        self._numbers = numbers

    @property
    def numbers(self) -> Sequence[int]:
        return self._numbers


def file_chunks(table: LayerChunks, numbers: array[int]) -> FileChunks:
    """The content of a file that is made of `numbers`, which are one or more."""
    if all(after == before + 1 for before, after in pairwise(numbers)):
        return FileChunks(table, numbers[0], len(numbers))
    return ScatteredChunks(table, numbers)
