"""Decoded chunks that the disk would not take, kept for a while so that neighbours hit them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

_LIMIT = 16 << 20


class Held:
    """By row; the oldest go when all take more than 16 MiB."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def of(self, rows: Iterable[int]) -> dict[int, bytes]:
        """Those of `rows` that are here."""
        return {row: self._chunks[row] for row in rows if row in self._chunks}

    def keep(self, row: int, data: bytes) -> None:
        if row not in self._chunks:
            self._size += len(data)
        self._chunks[row] = data
        while self._size > _LIMIT:
            self._size -= len(self._chunks.popitem(last=False)[1])

    def clear(self) -> None:
        self._chunks.clear()
        self._size = 0
