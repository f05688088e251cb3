"""The members of an image archive, read in place from an uncompressed tar file."""

from __future__ import annotations

import io
import os
import posixpath
import stat
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import FormatError, NotFoundError, UsageError, local_errors
from fs.registry.files import open_regular
from fs.tar.entry import HARD_LINK
from fs.tar.reader import TarReader

_MAX_MEMBERS = 200_000
_MAX_LINKS = 16
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz"}


class TarFiles:
    """LayoutFiles inside an archive; the archive stays open until `close`.

    Names are cleaned, links between members are followed, the last member of a name wins.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        with local_errors(name):
            self._fd = open_regular(path)
        try:
            self._members: dict[str, tuple[int, int]] = {}
            self._links: dict[str, str] = {}
            with local_errors(name):
                self._scan()
        except BaseException:
            os.close(self._fd)
            raise

    def __contains__(self, path: str) -> bool:
        return self._find(path) is not None

    def open(self, path: str) -> BinaryIO:
        return io.BufferedReader(_Window(self._fd, *self._member(path)), 128 << 10)

    def size(self, path: str) -> int:
        return self._member(path)[1]

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        start, size = self._member(path)
        with local_errors(self.name):
            return os.pread(self._fd, max(0, min(length, size - offset)), start + offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _member(self, path: str) -> tuple[int, int]:
        found = self._find(path)
        if found is None:
            raise NotFoundError(f"{self.name}: {path} is not in the archive")
        return found

    def _find(self, path: str) -> tuple[int, int] | None:
        path = _clean(path)
        for _ in range(_MAX_LINKS):
            if path not in self._links:
                break
            path = self._links[path]
        return self._members.get(path)

    def _scan(self) -> None:
        head = os.pread(self._fd, 6, 0)
        for magic, compression in _COMPRESSIONS.items():
            if head.startswith(magic):
                raise UsageError(f"{self.name}: compressed with {compression}; unpack it first")
        stream = _SeekingStream(self._fd, self.name)
        for entry in TarReader(stream):
            if len(self._members) + len(self._links) >= _MAX_MEMBERS:
                raise FormatError(f"more than {_MAX_MEMBERS} members", self.name)
            path = _clean(os.fsdecode(entry.path))
            if entry.kind == stat.S_IFREG and entry.segments is None:
                self._links.pop(path, None)
                self._members[path] = (stream.offset, entry.size)
            elif entry.kind in (stat.S_IFLNK, HARD_LINK):
                target = os.fsdecode(entry.target)
                base = posixpath.dirname(path) if entry.kind == stat.S_IFLNK else ""
                self._links[path] = _clean(posixpath.join(base, target))


def _clean(path: str) -> str:
    return posixpath.normpath(f"/{path}").lstrip("/")


class _SeekingStream:
    """A file as the tar reader takes it; what is skipped is not read."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.offset = 0
        self._fd = fd
        self._size = os.fstat(fd).st_size

    def take(self, size: int) -> bytes:
        taken = os.pread(self._fd, size, self.offset)
        self.offset += len(taken)
        return taken

    def take_exactly(self, size: int) -> bytes:
        taken = self.take(size)
        if len(taken) != size:
            raise FormatError("archive ends in the middle of an entry", self.where())
        return taken

    def skip(self, size: int) -> None:
        if self.offset + size > self._size:
            raise FormatError("archive ends in the middle of an entry", self.where())
        self.offset += size

    def where(self) -> str:
        return f"{self.name}, offset {self.offset}"


class _Window(io.RawIOBase):
    """`size` bytes of a file from `start`, with a position of its own."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd = fd
        self._start = start
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        piece = os.pread(self._fd, min(len(buffer), self._left), self._start)
        buffer[: len(piece)] = piece
        self._start += len(piece)
        self._left -= len(piece)
        return len(piece)
