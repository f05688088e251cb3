"""One entry of a layer, whatever it was read from, and the pieces of its content.

Content is handed out in pieces of the chunk size, so memory does not depend on
the size of a file; a piece that lies in a hole of a sparse file is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

#: `Entry.kind` of a hard link; the other kinds are the S_IF* values of stat(2).
HARD_LINK = 0

#: (offset, length) of the data of a sparse file, ascending; the rest is zeros.
Segments = list[tuple[int, int]]


@dataclass(slots=True)
class Entry:
    """Names and targets are as written, bytes, not yet cleaned. `mode` has no type bits.

    `size` is the file's logical size; `packed_size` the bytes that the archive has of it.
    """

    path: bytes
    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_nsec: int = 0
    size: int = 0
    packed_size: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    segments: Segments | None = None
    offset: int = 0


def pieces(entry: Entry, read: Callable[[int], bytes], piece_size: int) -> Iterator[bytes | int]:
    """The content of a regular file, each piece `piece_size` bytes but for the last.

    `read(n)` gives the next n packed bytes, all of them or an error. A piece that is
    all hole comes as its length.
    """
    if entry.segments is not None:
        yield from _sparse_pieces(entry, read, piece_size)
        return
    for start in range(0, entry.size, piece_size):
        yield read(min(piece_size, entry.size - start))


def _sparse_pieces(
    entry: Entry, read: Callable[[int], bytes], piece_size: int
) -> Iterator[bytes | int]:
    segments = iter(entry.segments or ())
    at, left = next(segments, (entry.size, 0))
    for start in range(0, entry.size, piece_size):
        end = min(start + piece_size, entry.size)
        if at >= end:
            yield end - start
            continue
        piece = bytearray(end - start)
        while at < end:
            part = min(left, end - at)
            piece[at - start : at - start + part] = read(part)
            at, left = at + part, left - part
            if not left:
                at, left = next(segments, (entry.size, 0))
        yield bytes(piece)
