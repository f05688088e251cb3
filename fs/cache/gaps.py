"""Where a decoded blob has no chunk of a table: that reads as zeros, whatever the file has there.

Between two chunks of one block's distance nothing is ever written; a wider gap may
hold chunks that another image has and this one may not see.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter

from fs.format.chunktable import ChunkTable

#: Chunks begin at multiples of it in the decoded blob; what maps the blob maps such blocks.
BLOCK = 4096
#: The blocks of a tar file, and of an image that maps one.
SECTOR = 512


class Gaps:
    """Of one table over a decoded blob of `size` bytes; found when first asked for."""

    def __init__(self, table: ChunkTable, size: int) -> None:
        self._table = table
        self._size = size
        self._found: list[tuple[int, int]] | None = None

    def between(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The gaps in [start, end), cut to it."""
        if self._found is None:
            self._found = list(self._find())
        first = bisect_right(self._found, start, key=itemgetter(1))
        for low, high in itertools.islice(self._found, first, None):
            if low >= end:
                return
            yield max(low, start), min(high, end)

    def blank(self, flat: memoryview, offset: int, end: int) -> memoryview:
        """`flat`, which lies at `offset`, zeroed where it is in a gap, or behind `end`."""
        for start, stop in self.between(offset, end):
            flat[start - offset : stop - offset] = bytes(stop - start)
        flat[end - offset :] = bytes(len(flat) - (end - offset))
        return flat

    def _find(self) -> Iterator[tuple[int, int]]:
        """The ranges of whole blocks that no chunk of the table touches."""
        reached = 0
        for offset, size in zip(
            self._table.uncompressed_offsets, self._table.uncompressed_sizes, strict=True
        ):
            if offset - reached >= BLOCK:
                yield reached, offset
            reached = -(-(offset + size) // BLOCK) * BLOCK
        if reached < self._size:
            yield reached, self._size
