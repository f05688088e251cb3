"""A directory tree as the entries of a layer, in an order that depends on names only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import StorageError, local_errors
from fs.tar.entry import HARD_LINK, Entry
from fs.tar.pax import storable_xattrs


class RootfsEntries:
    """Every file below `root`, directories before what is in them, links to them after."""

    def __init__(self, root: Path, advance: Callable[[int], None]) -> None:
        self._root = os.fsencode(root)
        self._advance = advance
        self._names: dict[tuple[int, int], bytes] = {}
        self._file: BinaryIO | None = None
        self._path = self._root

    def __iter__(self) -> Iterator[Entry]:
        todo = [b""]
        try:
            while todo:
                path = todo.pop()
                self._path = self._root + b"/" + path
                with local_errors(Path(os.fsdecode(self._path))):
                    entry = self._entry(path)
                    if entry.kind == stat.S_IFDIR:
                        names = sorted(os.listdir(self._path), reverse=True)
                        todo += [path + b"/" + name if path else name for name in names]
                yield entry
        finally:
            self._close()

    def read(self, size: int) -> bytes:
        """The next `size` bytes of the file just yielded; StorageError if it has become shorter."""
        path = Path(os.fsdecode(self._path))
        with local_errors(path):
            if self._file is None:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = open(os.open(path, flags), "rb")  # noqa: SIM115 - closed by _close
            data = self._file.read(size)
        if len(data) != size:
            raise StorageError(f"{path}: changed while it was read")
        self._advance(size)
        return data

    def _entry(self, path: bytes) -> Entry:
        self._close()
        found = os.lstat(self._path)
        kind = stat.S_IFMT(found.st_mode)
        entry = Entry(
            path,
            kind,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            mtime=max(0, found.st_mtime_ns) // 10**9,
            mtime_nsec=max(0, found.st_mtime_ns) % 10**9,
            xattrs=_xattrs(self._path),
        )
        if kind != stat.S_IFDIR and found.st_nlink > 1:
            first = self._names.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                entry.kind, entry.target = HARD_LINK, first
                return entry
        if kind == stat.S_IFREG:
            entry.size = entry.packed_size = found.st_size
        elif kind == stat.S_IFLNK:
            entry.target = os.readlink(self._path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            entry.rdev = found.st_rdev
        return entry

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
    return storable_xattrs({name: os.getxattr(path, name, follow_symlinks=False) for name in names})
