"""Who goes through a blob in its order, from file to file, is served ahead.

The files of a layer are read one after the other by what copies or searches a tree, or by a
kernel that reads from the blob. A few misses that follow each other closely begin it; then there
is always one window on its way beyond the one that is read. It ends with a miss elsewhere.
"""

from __future__ import annotations

import sys

from fs.format.chunktable import ChunkTable

#: Misses that follow each other before anything is fetched ahead.
STEPS = 3
#: Two misses follow each other if no more lies between them (bytes, as stored).
_SLACK = 256 << 10
_FIRST = 512 << 10
_LARGEST = 4 << 20
_NOTHING = range(0)


class Onward:
    """Of one blob; counts in rows, which lie there in the order of the decoded blob.

    `steps` is how many misses have to follow each other; None: nothing is fetched ahead. A
    read of a row from `mark` on wants the next window.
    """

    def __init__(self, table: ChunkTable, steps: int | None) -> None:
        self.mark = sys.maxsize
        self._table = table
        self._next = 0
        self._needed = steps or sys.maxsize
        self._steps = 0
        self._window = 0

    def missed(self, low: int, high: int) -> range:
        """Rows `low` to `high` are being fetched for a reader; what to fetch besides."""
        if not 0 <= self._distance(low) <= _SLACK:
            self._steps, self._window, self.mark = 0, 0, sys.maxsize
        self._steps += 1
        self._next = high + 1
        return self.window() if self._steps >= self._needed else _NOTHING

    def window(self) -> range:
        """The rows of the next window. To be `taken`, unless they cannot be fetched now."""
        size = min(_LARGEST, self._window * 2 or _FIRST)
        offsets, first = self._table.compressed_offsets, self._next
        end = first
        while end < len(self._table) and 0 <= offsets[end] - offsets[first] < size:
            end += 1
        return range(first, end)

    def taken(self, rows: range) -> None:
        """A window is on its way; the next one is wanted when the reader comes to it."""
        self._window = min(_LARGEST, self._window * 2 or _FIRST)
        self.mark, self._next = rows.start, rows.stop

    def _distance(self, row: int) -> int:
        """Stored bytes from the end of what was fetched last to a row."""
        if not self._next:
            return -1
        last, table = self._next - 1, self._table
        end = table.compressed_offsets[last] + table.compressed_sizes[last]
        # Chunks of one piece have the piece's place.
        return max(0, table.compressed_offsets[row] - end) if row > last else -1
