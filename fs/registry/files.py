"""The files of an image layout, wherever they are: a directory, or inside a tar file.

Paths are ours ("index.json", "blobs/sha256/<hex>"), never taken from content.
Only regular files are read. Every operating system error becomes a Failure that
names the place.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Protocol

from fs.format.errors import FormatError, local_errors
from fs.registry.digest import split_digest


class LayoutFiles(Protocol):
    """Read-only and thread-safe; NotFoundError for a path that is not there."""

    name: str

    def open(self, path: str) -> BinaryIO: ...
    def size(self, path: str) -> int: ...
    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`."""

    def close(self) -> None: ...


def blob_path(digest: str) -> str:
    algorithm, encoded = split_digest(digest)
    return f"blobs/{algorithm}/{encoded}"


def open_regular(path: Path) -> int:
    """A descriptor for reading; OSError if it is anything but a regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return fd


class DirectoryFiles:
    """Files below `root`."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._root = root

    def open(self, path: str) -> BinaryIO:
        with local_errors(f"{self.name}: {path}"):
            return os.fdopen(open_regular(self._root / path), "rb")

    def size(self, path: str) -> int:
        with self.open(path) as file:
            return os.fstat(file.fileno()).st_size

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        with self.open(path) as file, local_errors(f"{self.name}: {path}"):
            return os.pread(file.fileno(), length, offset)

    def close(self) -> None:
        """Nothing is kept open."""


def read_small(files: LayoutFiles, path: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes; FormatError if it is larger."""
    with files.open(path) as file, local_errors(f"{files.name}: {path}"):
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"{path} is larger than {limit} bytes", files.name)
    return data
