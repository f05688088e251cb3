"""Paths inside a root directory that somebody hostile has filled.

Symbolic links are followed as a process chrooted into the root would follow
them, and nothing outside is ever opened: each component is opened by itself,
without following, relative to the descriptor of its parent; ".." goes back to
the parent that was opened, and stops at the root. So it also holds against a
tree that changes meanwhile, and links of procfs lead nowhere but to their text.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

_MAX_LINKS = 40  # as the kernel
_OPEN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Create = Callable[[int, bytes, bool], None]
"""Called with the parent's descriptor, the missing name, and whether it is the last one."""


def open_in_root(root: int, path: str | bytes, create: Create | None = None) -> int:
    """An O_PATH descriptor of what `path` names inside the directory `root`.

    Raises OSError, its file name being `path`. A missing component is first
    handed to `create`, also where a dangling link leads to it.
    """
    try:
        return _walk(root, os.fsencode(path), create)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None


def make_directory(root: int, path: str | bytes, mode: int = 0o755) -> int:
    """Open a directory in `root`, having made it and its parents where they were missing."""

    def create(parent: int, name: bytes, last: bool) -> None:
        os.mkdir(name, mode if last else 0o755, dir_fd=parent)

    descriptor = open_in_root(root, path, create)
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(path))
    return descriptor


def make_file(root: int, path: str | bytes) -> int:
    """Open what is at `path` in `root`, having made an empty file there if nothing was."""

    def create(parent: int, name: bytes, last: bool) -> None:
        if last:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
        else:
            os.mkdir(name, 0o755, dir_fd=parent)

    return open_in_root(root, path, create)


def open_directory(root: int, path: bytes) -> int:
    """The directory at `path`, opened for reading; OSError where a name of it is a link."""
    opened = os.dup(root)
    try:
        for name in filter(None, path.split(b"/")):
            below = os.open(name, _DIRECTORY, dir_fd=opened)
            os.close(opened)
            opened = below
    except BaseException:
        os.close(opened)
        raise
    return opened


def read_file(root: int, path: str | bytes, limit: int) -> bytes:
    """At most `limit` bytes of a regular file in `root`; OSError if it is something else."""
    descriptor = open_in_root(root, path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        with open(f"/proc/self/fd/{descriptor}", "rb") as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def _walk(root: int, path: bytes, create: Create | None) -> int:
    pending = path.split(b"/")[::-1]
    opened = [os.open(b".", _OPEN | os.O_DIRECTORY, dir_fd=root)]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(opened) > 1:
                    os.close(opened.pop())
                continue
            try:
                descriptor = os.open(name, _OPEN, dir_fd=opened[-1])
            except FileNotFoundError:
                if create is None:
                    raise
                written = _collapse([name, *pending[::-1]])
                pending = written[::-1]
                if b".." not in written:
                    create(opened[-1], written[0], len(written) == 1)
                continue
            if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
                opened.append(descriptor)
                continue
            target = _link_target(descriptor)
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith(b"/"):
                while len(opened) > 1:
                    os.close(opened.pop())
            pending += target.split(b"/")[::-1]
        return opened.pop()
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _collapse(names: list[bytes]) -> list[bytes]:
    """Names beyond what exists: ".." takes back the one before it, as it is only written."""
    collapsed: list[bytes] = []
    for name in names:
        if name == b".." and collapsed and collapsed[-1] != b"..":
            collapsed.pop()
        elif name not in (b"", b"."):
            collapsed.append(name)
    return collapsed


def _link_target(link: int) -> bytes:
    try:
        return os.readlink(b"", dir_fd=link)
    finally:
        os.close(link)
