"""Who reads in sequence is served ahead; who jumps about is given what he asked for only.

One window a file, kept for the files read last. It begins small, doubles with each
window that the reader enters, and starts anew after a jump. Windows are in
the file's own offsets; whoever holds the file turns them into requests.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

_FIRST = 256 << 10
_LARGEST = 4 << 20
#: The kernel's own read-ahead may bring two requests in the wrong order (bytes).
_SLACK = 1 << 20
#: Jumps after which a file counts as read at random places.
_JUMPS = 2
_FILES = 1024
#: Windows on their way beyond the one that is read.
_DEPTH = 2


class Advice(NamedTuple):
    """`start` to `end` should be fetched now (nothing if they are equal).

    `widen` is False when neighbours of what is read are likely of no use.
    """

    start: int
    end: int
    widen: bool


_NOTHING = Advice(0, 0, True)
_NO_NEIGHBOURS = Advice(0, 0, False)


class _Reader:
    __slots__ = ("ahead", "jumps", "next", "window")

    def __init__(self) -> None:
        self.next = 0
        self.window = 0
        self.ahead = 0
        self.jumps = 0


class ReadAhead:
    """`largest` is the limit of a window in bytes; 0 turns it off."""

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest
        self._readers: OrderedDict[int, _Reader] = OrderedDict()

    def read(self, key: int, offset: int, length: int, *, loose: bool = True) -> Advice:
        """Note a read of file `key` that did not reach its end; say what to fetch besides.

        `loose` is False where reads near each other are of different files. The end of the
        advice may lie behind that of the file.
        """
        reader = self._readers.get(key)
        if reader is None:
            reader = self._new(key)
        slack = (_SLACK if reader.window else _FIRST) if loose else 0
        if not -slack <= offset - reader.next <= slack:
            return self._jumped(reader, offset + length)
        return self._sequential(reader, offset, offset + length)

    def _new(self, key: int) -> _Reader:
        reader = self._readers[key] = _Reader()
        if len(self._readers) > _FILES:
            self._readers.popitem(last=False)
        return reader

    def _jumped(self, reader: _Reader, end: int) -> Advice:
        reader.jumps += 1
        reader.next, reader.window, reader.ahead = end, 0, 0
        return _NOTHING if reader.jumps < _JUMPS else _NO_NEIGHBOURS

    def _sequential(self, reader: _Reader, offset: int, end: int) -> Advice:
        """Keep two windows ahead: one is on its way while the other is read."""
        reader.next = max(reader.next, end)
        if not self._largest or (offset == 0 and not reader.window):
            return _NOTHING  # the beginning of a file is read by many who read no more of it
        reader.jumps = 0
        if reader.window and reader.ahead - end >= reader.window * _DEPTH:
            return _NOTHING
        reader.window = min(self._largest, reader.window * 2 or _FIRST)
        start = max(reader.ahead, end)
        reader.ahead = start + reader.window
        return Advice(start, reader.ahead, True)
