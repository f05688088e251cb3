"""The files of an image as its programs would see them: paths, links followed, bytes on demand."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

from fs.format.errors import FormatError

#: nid, offset, length → bytes of a regular file.
Read = Callable[[int, int, int], bytes]

_MAX_LINKS = 40
_BUFFER = 4 << 10
#: Paths of more names are followed without a look at what is known of those above.
_DEEP = 64
#: Of an image, and by one stream, at most so much is read: some may be made to be read for ever.
_MOST = 1 << 30
_MOST_OF_A_STREAM = 4 << 20


class Attributes(Protocol):
    @property
    def mode(self) -> int: ...
    @property
    def size(self) -> int: ...


class Named(Protocol):
    @property
    def name(self) -> bytes: ...
    @property
    def nid(self) -> int: ...


class Tree(Protocol):
    """What is asked of an image: a bootstrap, or a tree that has none yet."""

    name: str

    @property
    def root(self) -> int: ...
    def inode(self, nid: int) -> Attributes: ...
    def entries(self, nid: int) -> Iterator[Named]:
        """The names in a directory, sorted."""

    def readlink(self, nid: int) -> bytes: ...


class File(NamedTuple):
    """A file or directory by its real path, in which no link is left."""

    path: str
    nid: int
    mode: int
    size: int

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_program(self) -> bool:
        return self.is_regular and bool(self.mode & 0o111)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0] or "/"


class ImageFiles:
    """The files of a tree. Paths are text as os.fsdecode makes it.

    FormatError when more is read than any start could need.
    """

    def __init__(self, tree: Tree, read: Read) -> None:
        self._tree = tree
        self._read = read
        self._left = _MOST
        self.find = lru_cache(1 << 16)(self._find)
        # Interpreters look for most names in many places: whole directories pay.
        self._inode = lru_cache(1 << 16)(tree.inode)
        self._entries = lru_cache(1 << 12)(self._directory)
        self._place = lru_cache(1 << 12)(self._find_directory)

    def _find(self, path: str) -> File | None:
        """What a program finds at an absolute path; None if there is nothing."""
        above, _, name = path.rpartition("/")
        real, entries = self._place(above)
        if name not in ("", ".", ".."):
            nid = entries.get(os.fsencode(name))
            if nid is None:
                return None
            inode = self._inode(nid)
            if not stat.S_ISLNK(inode.mode):
                return File(f"{real}/{name}", nid, inode.mode, inode.size)
        return self._walk(path)

    def _find_directory(self, path: str) -> tuple[str, dict[bytes, int]]:
        """Its real path, without a slash at the end, and its names; none if there is none."""
        above, _, name = path.rpartition("/")
        if above and name not in ("", ".", "..") and path.count("/") < _DEEP:
            real, entries = self._place(above)
            nid = entries.get(os.fsencode(name))
            if nid is None:
                return "", {}
            if not stat.S_ISLNK(self._inode(nid).mode):
                return f"{real}/{name}", self._entries(nid)
        found = self._walk(path)
        return (found.path.rstrip("/"), self._entries(found.nid)) if found else ("", {})

    def _walk(self, path: str) -> File | None:
        todo = os.fsencode(path).split(b"/")[::-1]
        nids, names = [self._tree.root], [b""]
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                del nids[max(1, len(nids) - 1) :], names[max(1, len(names) - 1) :]
                continue
            nid = self._entries(nids[-1]).get(name)
            if nid is None:
                return None
            if stat.S_ISLNK(self._inode(nid).mode):
                links += 1
                if links > _MAX_LINKS:
                    return None
                target = self._tree.readlink(nid)
                if target.startswith(b"/"):
                    del nids[1:], names[1:]
                todo += target.split(b"/")[::-1]
                continue
            nids.append(nid)
            names.append(name)
        inode = self._inode(nids[-1])
        real = os.fsdecode(b"/".join(names)) or "/"
        return File(real, nids[-1], inode.mode, inode.size)

    def _directory(self, nid: int) -> dict[bytes, int]:
        """The names in a directory; none if it is another kind of file."""
        if not stat.S_ISDIR(self._inode(nid).mode):
            return {}
        return {entry.name: entry.nid for entry in self._tree.entries(nid)}

    def file(self, path: str) -> File | None:
        """The regular file there, if it is one."""
        found = self.find(path)
        return found if found and found.is_regular else None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none if it is no directory."""
        found = self.find(path)
        if found is None or not found.is_directory:
            return []
        return [os.fsdecode(entry.name) for entry in self._tree.entries(found.nid)]

    def below(self, path: str, limit: int, without: str = "") -> Iterator[File]:
        """The regular files in a directory and in those below it, in order, at most `limit`.

        Directories whose names end in `without` are left out; links lead into them.
        """
        pending = [path]
        seen: set[int] = set()
        while pending and limit > 0:
            at = pending.pop()
            found = self.find(at)
            if found is None or found.nid in seen:
                continue
            seen.add(found.nid)
            if found.is_regular:
                limit -= 1
                yield found
            elif found.is_directory and not (without and at.endswith(without)):
                names = self.names(found.path)
                pending += [f"{found.path.rstrip('/')}/{name}" for name in reversed(names)]

    def read(self, file: File, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a regular file, fewer at its end."""
        left = max(0, file.size - offset)
        length = left if length is None else min(length, left)
        self._left -= length
        if self._left < 0:
            raise FormatError("its start would read too much", self._tree.name)
        return self._read(file.nid, offset, length) if length else b""

    def text(self, file: File, limit: int) -> str:
        """The beginning of a file as text, whatever is in it."""
        return self.read(file, 0, limit).decode("utf-8", "surrogateescape")

    def open(self, file: File) -> io.BufferedReader:
        """The file as a stream that can seek; ValueError when too much is read of it."""
        return io.BufferedReader(_Stream(self, file), _BUFFER)


class _Stream(io.RawIOBase):
    def __init__(self, files: ImageFiles, file: File) -> None:
        self._files = files
        self._file = file
        self._offset = 0
        self._left = _MOST_OF_A_STREAM

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._offset, self._file.size)[whence]
        self._offset = max(0, base + offset)
        return self._offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._files.read(self._file, self._offset, len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("read too much")
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)
