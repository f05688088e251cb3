"""How much a miss brings along: little where a blob is read here and there, more where densely.

A first request takes `amplify` bytes; one near an earlier one takes twice as much
as that did, up to sixteen times. So the requests of a program's start, whose files
lie in a few places, become few, and a lone read elsewhere stays small.
Only whether, never what, is decided here: every row taken along is verified like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fs.cache.plan import DECODED, adjoin, decoded_size
from fs.format.chunktable import ChunkTable

_GROWTH = 2
_LARGEST = 16
#: Places are as long as so many first requests; a place and the next ones on both sides are near.
_PLACE = 4


class Neighbours:
    """Of one blob. Offsets are those of the stored blob."""

    def __init__(self, table: ChunkTable, amplify: int) -> None:
        self._table = table
        self._first = amplify
        self._place = max(1, amplify * _PLACE)
        self._windows: dict[int, int] = {}

    def around(self, run: Sequence[int], is_free: Callable[[int], bool], gap: int) -> list[int]:
        """`run` with the rows before and behind it that its request should bring.

        `run` is in stored order; rows must be `is_free` and not more than `gap` bytes apart.
        """
        if not self._first:
            return list(run)
        window = self._window(run)
        low, high = run[0], run[-1]
        while low and adjoin(self._table, low - 1, low, gap) and is_free(low - 1):
            if self._size(low - 1, high) > window // 2 or self._is_much(low - 1, high):
                break
            low -= 1
        while high + 1 < len(self._table) and adjoin(self._table, high, high + 1, gap):
            if self._size(low, high + 1) > window or self._is_much(low, high + 1):
                break
            if not is_free(high + 1):
                break
            high += 1
        for place in self._places(low, high):
            self._windows[place] = max(window, self._windows.get(place, 0))
        return [*range(low, run[0]), *run, *range(run[-1] + 1, high + 1)]

    def _window(self, run: Sequence[int]) -> int:
        places = self._places(run[0], run[-1])
        near = range(places.start - 1, places.stop + 1)
        before = max((self._windows.get(place, 0) for place in near), default=0)
        return min(max(self._first, before * _GROWTH), self._first * _LARGEST)

    def _places(self, low: int, high: int) -> range:
        start = self._table.compressed_offsets[low]
        return range(start // self._place, (start + self._size(low, high)) // self._place + 1)

    def _is_much(self, low: int, high: int) -> bool:
        return decoded_size(self._table, low, high) > DECODED

    def _size(self, low: int, high: int) -> int:
        offsets = self._table.compressed_offsets
        return offsets[high] + self._table.compressed_sizes[high] - offsets[low]
