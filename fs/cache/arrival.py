"""A range on its way: what has come of it is used while the rest is still coming.

One thread receives, the trio thread hands out. Bytes that were handed out never change: an
attempt that fails is followed by one with a buffer of its own.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

import trio

from fs.cache import plan
from fs.format.chunktable import ChunkTable

#: What is decoded before newly arrived pieces are looked at (bytes, decoded).
_AT_ONCE = 2 << 20


class Arrival:
    """Of `length` bytes. `ended`: no more will come, be it all or not."""

    def __init__(self, length: int) -> None:
        self.ended = False
        self._length = length
        self._body: bytearray | bytes = b""
        self._count = 0
        self._more = trio.Event()
        self._abandoned = threading.Event()

    def come(self) -> memoryview:
        """The bytes from the beginning that are here."""
        return memoryview(self._body)[: self._count]

    async def more(self) -> None:
        """Wait until there is more than at the last call of `come`, or it has ended."""
        await self._more.wait()
        if not self.ended:
            self._more = trio.Event()

    def end(self, body: bytes | bytearray | None = None) -> None:
        """Nothing more comes; `body` is everything, if that is known."""
        if body is not None:
            self._body, self._count = body, len(body)
        self.ended = True
        self._abandoned.set()
        self._more.set()

    def receive(self, pieces: Iterable[bytes], token: trio.lowlevel.TrioToken) -> bytearray:
        """All of an attempt, told of piece by piece. In the receiving thread."""
        body = bytearray(self._length)
        count = 0
        for piece in pieces:
            if self._abandoned.is_set():
                break
            body[count : count + len(piece)] = piece
            count += len(piece)
            try:
                token.run_sync_soon(self._note, body, count)
            except trio.RunFinishedError:
                break
        return body[:count] if count < self._length else body

    def _note(self, body: bytearray, count: int) -> None:
        if not self.ended:
            self._body, self._count = body, count
            self._more.set()


class Arriving:
    """Rows of one range, in portions of whole pieces, as the pieces are there.

    Of those that are there, pieces of `wanted` rows come first. Ends with the arrival.
    """

    def __init__(
        self,
        table: ChunkTable,
        rows: Iterable[int],
        wanted: Iterable[int],
        base: int,
        arrival: Arrival,
    ) -> None:
        self.base = base
        self._table = table
        self.arrival = arrival
        self._wanted = {table.piece_of(row) for row in wanted}
        self._pieces = sorted(plan.by_piece(table, rows), key=self._end)
        self._ends = [self._end(piece) for piece in self._pieces]
        self._seen = 0
        self._first: deque[list[int]] = deque()
        self._others: deque[list[int]] = deque()

    def __aiter__(self) -> Arriving:
        return self

    async def __anext__(self) -> tuple[list[int], memoryview]:
        """Rows, and the bytes from `base` on that hold them."""
        while True:
            body = self.arrival.come()
            self._look(len(body))
            if self._first or self._others:
                return self._portion(self._first or self._others), body
            if self._seen == len(self._pieces) or self.arrival.ended:
                raise StopAsyncIteration
            await self.arrival.more()

    def _look(self, size: int) -> None:
        there = bisect_right(self._ends, size, lo=self._seen)
        for piece in self._pieces[self._seen : there]:
            wanted = self._table.piece_of(piece[0]) in self._wanted
            (self._first if wanted else self._others).append(piece)
        self._seen = there

    def _end(self, piece: Sequence[int]) -> int:
        row = piece[0]
        end = self._table.compressed_offsets[row] + self._table.compressed_sizes[row]
        return end - self.base

    def _portion(self, queue: deque[list[int]]) -> list[int]:
        rows: list[int] = []
        size = 0
        while queue and (not rows or size < _AT_ONCE):
            rows += queue[0]
            size += plan.decoded_piece(self._table, queue.popleft()[0])
        return rows
