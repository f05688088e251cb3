"""Decoded chunks that the disk would not take, kept for a while so that neighbours hit them.

All blobs of a cache directory share one room: how many are read from a full disk says
nothing of how much memory there is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

_ROOM = 16 << 20


class Room:
    """What is held of all blobs; the oldest chunks go when all take more than `size` bytes."""

    def __init__(self, size: int = _ROOM) -> None:
        self._left = size
        self._chunks: OrderedDict[tuple[Held, int], int] = OrderedDict()

    def enter(self, held: Held, row: int, size: int) -> None:
        self.leave(held, row)
        self._chunks[held, row] = size
        self._left -= size
        while self._left < 0:
            (oldest, its_row), _ = next(iter(self._chunks.items()))
            oldest.drop(its_row)

    def leave(self, held: Held, row: int) -> None:
        self._left += self._chunks.pop((held, row), 0)


class Held:
    """Chunks of one blob, by row."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._chunks: dict[int, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def of(self, rows: Iterable[int]) -> dict[int, bytes]:
        """Those of `rows` that are here."""
        return {row: self._chunks[row] for row in rows if row in self._chunks}

    def keep(self, row: int, data: bytes) -> None:
        self._chunks[row] = data
        self._room.enter(self, row, len(data))

    def drop(self, row: int) -> None:
        del self._chunks[row]
        self._room.leave(self, row)

    def clear(self) -> None:
        for row in list(self._chunks):
            self.drop(row)
