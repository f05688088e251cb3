"""Reads files of two trees at random, in every way there is, until one differs.

    python -m tests.reads.reader ORIGINAL MOUNTED SEED COUNT

One process of several; ends with 1 and a line that says which read was wrong. The
original is trusted and is read with pread only.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_PAGE = 4096
_LONGEST = 300_000
#: What a file system may answer to a request that it does not know.
_UNKNOWN = (errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS)
Read = Callable[[int, int, int], bytes | None]


def pread(file: int, offset: int, length: int) -> bytes:
    return os.pread(file, length, offset)


def preadv(file: int, offset: int, length: int) -> bytes:
    """Into three buffers of which the last is the longest."""
    buffers = [bytearray(length // 7), bytearray(length // 3), bytearray(length)]
    got = os.preadv(file, buffers, offset)
    return b"".join(buffers)[:got][:length]


def seek_and_read(file: int, offset: int, length: int) -> bytes:
    """By a descriptor of its own, in small pieces, so that the kernel reads ahead."""
    own = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    try:
        os.lseek(own, offset, os.SEEK_SET)
        got = b""
        while len(got) < length and (piece := os.read(own, min(5000, length - len(got)))):
            got += piece
        return got
    finally:
        os.close(own)


def mapped(file: int, offset: int, length: int) -> bytes | None:
    size = os.fstat(file).st_size
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    end = min(offset + length, size)
    if offset >= end:
        return None
    with mmap.mmap(file, end - start, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=start) as view:
        if offset % 3 == 0:
            view.madvise(mmap.MADV_RANDOM)
        return view[offset - start :]


def sent(file: int, offset: int, length: int) -> bytes:
    target = os.memfd_create("sent")
    try:
        while length and (moved := os.sendfile(target, file, offset, length)):
            offset, length = offset + moved, length - moved
        return os.pread(target, _LONGEST, 0)
    finally:
        os.close(target)


def spliced(file: int, offset: int, length: int) -> bytes:
    reader, writer = os.pipe()
    try:
        got = b""
        while len(got) < length:
            moved = os.splice(file, writer, min(length - len(got), 1 << 16), offset + len(got))
            if not moved:
                break
            while moved:
                piece = os.read(reader, moved)
                got, moved = got + piece, moved - len(piece)
        return got
    finally:
        os.close(reader)
        os.close(writer)


def copied(file: int, offset: int, length: int) -> bytes | None:
    with tempfile.TemporaryFile() as target:
        try:
            while length and (
                moved := os.copy_file_range(file, target.fileno(), length, offset_src=offset)
            ):
                offset, length = offset + moved, length - moved
        except OSError as error:
            if error.errno in _UNKNOWN:
                return None
            raise
        return os.pread(target.fileno(), _LONGEST, 0)


def direct(file: int, offset: int, length: int) -> bytes | None:
    try:
        own = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        raise
    try:
        start = offset - offset % _PAGE
        room = mmap.mmap(-1, -(-(offset + length - start) // _PAGE) * _PAGE)
        got = os.preadv(own, [room], start)
        return bytes(room[:got])[offset - start :][:length]
    finally:
        os.close(own)


READS: tuple[Read, ...] = (
    pread,
    preadv,
    seek_and_read,
    mapped,
    sent,
    spliced,
    copied,
    direct,
)
ADVICE = (
    os.POSIX_FADV_NORMAL,
    os.POSIX_FADV_RANDOM,
    os.POSIX_FADV_SEQUENTIAL,
    os.POSIX_FADV_WILLNEED,
    os.POSIX_FADV_DONTNEED,
    os.POSIX_FADV_DONTNEED,
)


def holes_are_empty(file: int, original: int, offset: int) -> str:
    """What is wrong with what the file says of its holes from `offset` on, or ''."""
    size = os.fstat(original).st_size
    try:
        hole = os.lseek(file, offset, os.SEEK_HOLE)
        data = os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        if offset >= size or not any(os.pread(original, size, offset)):
            return ""
        return "no data, it says"
    if not offset <= hole <= size or not offset <= data <= size:
        return f"hole at {hole} and data at {data} of {size}"
    if data > offset and any(os.pread(original, min(data, size) - offset, offset)):
        return f"nothing before {data}, it says"
    return ""


class Reader:
    def __init__(self, original: Path, mounted: Path, seed: int) -> None:
        self._chosen = random.Random(seed)
        names = sorted(path.name for path in original.iterdir())
        self._files = [
            (name, os.open(original / name, os.O_RDONLY), os.open(mounted / name, os.O_RDONLY))
            for name in names
        ]

    def step(self) -> str:
        """One read; what was wrong with it, or ''."""
        chosen = self._chosen
        name, original, file = chosen.choice(self._files)
        size = os.fstat(original).st_size
        if os.fstat(file).st_size != size:
            return f"{name}: of {os.fstat(file).st_size} bytes, not {size}"
        offset = chosen.randrange(size + _PAGE)
        if chosen.randrange(2):
            offset &= -_PAGE
        length = chosen.choice((1, 17, _PAGE, 70_000, _LONGEST, chosen.randrange(1, _LONGEST)))
        if chosen.randrange(4) == 0:
            os.posix_fadvise(file, offset, chosen.choice((0, length)), chosen.choice(ADVICE))
        if chosen.randrange(8) == 0 and (wrong := holes_are_empty(file, original, offset)):
            return f"{name} at {offset}: {wrong}"
        read = chosen.choice(READS)
        got = read(file, offset, length)
        expected = os.pread(original, length, offset)
        if got is None or got == expected:
            return ""
        first = next((n for n, (a, b) in enumerate(zip(got, expected)) if a != b), len(got))  # noqa: B905
        return (
            f"{name}: {read.__name__} of {length} at {offset} gives {len(got)} bytes, "
            f"not {len(expected)}, and others from {first} on"
        )


def main() -> int:
    original, mounted = map(Path, sys.argv[1:3])
    reader = Reader(original, mounted, int(sys.argv[3]))
    for number in range(int(sys.argv[4])):
        if wrong := reader.step():
            print(f"read {number} of seed {sys.argv[3]}: {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
