"""A long range by one request, taken leg by leg: each leg is a fetch with a buffer of its own.

What nobody has taken yet stays with the server, so a range of any length needs the memory of a
few legs. Legs are taken in their order. One that fails is asked for again from its own beginning,
by a new request for all that is left; what came before it is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import cast

import trio

from fs.format.errors import VerifyError

Pieces = Callable[[str, int, int], Iterable[bytes]]

#: What is read and thrown away rather than asked for anew behind it (bytes).
_SKIP = 1 << 20


class Stream:
    """Of a blob's bytes up to `end`. Legs are made in the trio thread, taken in others."""

    def __init__(self, pieces: Pieces, blob: str, end: int) -> None:
        self._pieces = pieces
        self._blob = blob
        self._end = end
        self._source: Iterator[bytes] | None = None
        self._at = 0
        self._rest = b""
        self._too_long = False
        self._using = threading.Lock()
        self._unwanted = False
        self._last = trio.Event()
        self._last.set()

    def leg(self) -> Leg:
        """The next one; its turn comes when that of the one before is over."""
        leg = Leg(self, self._last)
        self._last = leg.over
        return leg

    def continues(self, offset: int) -> bool:
        """Whether bytes at `offset` come without another request."""
        return self._source is not None and 0 <= offset - self._at <= _SKIP

    def cut(self) -> None:
        """Give the request under way up, or let whoever is taking of it do so at his end."""
        self._unwanted = True
        self._drop_unwanted()

    def take(self, offset: int, length: int) -> Iterator[bytes]:
        """Bytes [offset, offset+length) as they come. In a thread; one at a time."""
        with self._using:
            complete = False
            try:
                yield from self._take(offset, length)
                complete = self._at < self._end
            finally:
                if not complete:
                    self._drop()
        self._drop_unwanted()

    def _take(self, offset: int, length: int) -> Iterator[bytes]:
        if not self._too_long:
            taken = 0
            try:
                for piece in self._continued(offset, length):
                    taken += len(piece)
                    yield piece
                return
            except VerifyError:  # the blob ends before the range does, maybe behind this leg
                self._too_long = True
                if taken:
                    raise
        yield from self._pieces(self._blob, offset, length)

    def _continued(self, offset: int, length: int) -> Iterator[bytes]:
        if not self.continues(offset):
            self._drop()
            self._source = iter(self._pieces(self._blob, offset, self._end - offset))
            self._at = offset
        end = offset + length
        while self._at < end:
            assert self._source is not None
            piece = self._rest or next(self._source, b"")
            if not piece:
                raise VerifyError(f"blob {self._blob}: ends at {self._at}")
            low, high = max(0, offset - self._at), min(len(piece), end - self._at)
            self._rest = piece[high:]
            self._at += high
            if low < high:
                yield piece[low:high]

    def _drop_unwanted(self) -> None:
        if self._unwanted and self._using.acquire(blocking=False):
            try:
                self._drop()
                self._unwanted = False
            finally:
                self._using.release()

    def _drop(self) -> None:
        source, self._source, self._rest = self._source, None, b""
        if isinstance(source, Generator):
            cast("Generator[bytes, None, None]", source).close()


class Leg:
    """A part of a stream. Whoever has one ends it, whether he took it or not."""

    def __init__(self, stream: Stream, before: trio.Event) -> None:
        self.stream = stream
        self.over = trio.Event()
        self._before = before

    async def turn(self) -> None:
        """Wait until those before it are over."""
        await self._before.wait()

    def end(self) -> None:
        """The next one's turn."""
        self.over.set()
