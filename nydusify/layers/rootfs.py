"""A directory tree as the entries of a layer, in an order that depends on names only.

Somebody else may be changing the tree meanwhile, a running container for one. So every directory
is reached by descriptors that follow no link: what is read lies below the root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import StorageError, local_errors
from fs.rootdir import open_directory
from fs.tar.entry import HARD_LINK, Entry
from fs.tar.pax import storable_xattrs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NAMED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class RootfsEntries:
    """Every file below `root`, directories before what is in them, links to them after.

    `xattrs` are all that the entry just yielded has, also those that no layer keeps. Nothing is
    looked at of what is at or below the paths `without`.
    """

    def __init__(
        self, root: Path, advance: Callable[[int], None], without: Collection[bytes] = ()
    ) -> None:
        self._without = frozenset(without)
        self.xattrs: dict[bytes, bytes] = {}
        self._root = os.fsencode(root)
        self._advance = advance
        self._names: dict[tuple[int, int], bytes] = {}
        self._file: BinaryIO | None = None
        self._path = b""
        self._above = -1
        #: The directory that was opened last.
        self._at: tuple[bytes, int] | None = None

    def __iter__(self) -> Iterator[Entry]:
        todo = [b""]
        try:
            with local_errors(self._shown(b"")):
                self._above = os.open(self._root, _DIRECTORY)
            while todo:
                self._path = path = todo.pop()
                with local_errors(self._shown(path)):
                    entry = self._entry(path)
                    if entry.kind == stat.S_IFDIR:
                        names = sorted(map(os.fsencode, os.listdir(self._open(path))), reverse=True)
                        below = [path + b"/" + name if path else name for name in names]
                        todo += [each for each in below if each not in self._without]
                yield entry
        finally:
            self._close()
            self._leave()
            if self._above >= 0:
                os.close(self._above)
                self._above = -1

    def read(self, size: int) -> bytes:
        """The next `size` bytes of the file just yielded; StorageError if it has become shorter."""
        shown = self._shown(self._path)
        with local_errors(shown):
            if self._file is None:
                self._file = self._open_file(self._path)
            data = self._file.read(size)
        if len(data) != size:
            raise StorageError(f"{shown}: changed while it was read")
        self._advance(size)
        return data

    def _entry(self, path: bytes) -> Entry:
        self._close()
        place = self._place(path)
        found = os.lstat(place)
        kind = stat.S_IFMT(found.st_mode)
        self.xattrs = _xattrs(place)
        entry = Entry(
            path,
            kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            mtime=max(0, found.st_mtime_ns) // 10**9,
            mtime_nsec=max(0, found.st_mtime_ns) % 10**9,
            xattrs=storable_xattrs(self.xattrs),
        )
        if kind != stat.S_IFDIR and found.st_nlink > 1:
            first = self._names.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                entry.kind, entry.target = HARD_LINK, first
                return entry
        if kind == stat.S_IFREG:
            entry.size = entry.packed_size = found.st_size
        elif kind == stat.S_IFLNK:
            entry.target = os.readlink(place)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            entry.rdev = found.st_rdev
        return entry

    def _place(self, path: bytes) -> bytes:
        """A path that leads to the very entry, whatever its parents' names lead to by now."""
        parent, _, name = path.rpartition(b"/")
        return b"/proc/self/fd/%d/%b" % (self._open(parent), name or b".")

    def _open_file(self, path: bytes) -> BinaryIO:
        """A regular file: what took its place, a pipe or a device, must not even be opened."""
        parent, _, name = path.rpartition(b"/")
        named = os.open(name, _NAMED, dir_fd=self._open(parent))
        try:
            if not stat.S_ISREG(os.fstat(named).st_mode):
                raise StorageError(f"{self._shown(path)}: changed while it was read")
            return open(b"/proc/self/fd/%d" % named, "rb")
        finally:
            os.close(named)

    def _open(self, path: bytes) -> int:
        """The directory at `path`; it stays open until another one is."""
        if self._at is None or self._at[0] != path:
            descriptor = open_directory(self._above, path)
            self._leave()
            self._at = path, descriptor
        return self._at[1]

    def _leave(self) -> None:
        if self._at is not None:
            os.close(self._at[1])
            self._at = None

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _shown(self, path: bytes) -> Path:
        return Path(os.fsdecode(self._root + b"/" + path))


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
