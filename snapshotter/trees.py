"""Directory trees of unknown make: how much they hold, and removing them.

Both stay clear of recursion and of long paths where it matters: whoever fills
a layer may nest directories deeper than either allows.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from fs.format.errors import StorageError, local_errors

_BLOCK = 512  # unit of st_blocks
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Usage(NamedTuple):
    """Inodes, and bytes on disk; a file with several names counts once."""

    inodes: int = 0
    size: int = 0


def disk_usage(root: str) -> Usage:
    """What lies under `root`, itself included; parts beyond PATH_MAX are not counted."""
    top = os.lstat(root)
    seen = {(top.st_dev, top.st_ino)}
    size = top.st_blocks * _BLOCK
    pending = [root]
    while pending:
        for entry in _entries(pending.pop()):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # removed meanwhile
            if stat.S_ISDIR(status.st_mode):
                pending.append(entry.path)
            if (identity := (status.st_dev, status.st_ino)) not in seen:
                seen.add(identity)
                size += status.st_blocks * _BLOCK
    return Usage(len(seen), size)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return []
        raise StorageError(f"{directory}: {error.strerror}") from None


def remove_tree(root: str) -> None:
    """Remove a directory and all in it; nothing there is no error.

    Every directory is first moved up beside the root, so depth costs nothing.
    What is mounted inside cannot be moved, and so is never emptied.
    """
    parent, name = os.path.split(os.path.abspath(root))
    try:
        top = os.open(parent, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        with local_errors(root):
            remove_directory(top, os.fsencode(name))
    finally:
        os.close(top)


def remove_directory(top: int, name: bytes) -> None:
    """The same for the directory `name` in the directory `top`. OSError."""
    token = os.urandom(4).hex().encode()
    names = (b".%b.%d" % (token, count) for count in itertools.count())
    pending = [name]
    while pending:
        pending += _remove_one(top, pending.pop(), names)


def _remove_one(top: int, name: bytes, names: Iterator[bytes]) -> list[bytes]:
    """Remove directory `name` in `top`; its subdirectories are moved into `top` and returned.

    Somebody else may be removing the same tree.
    """
    moved: list[bytes] = []
    try:
        directory = os.open(name, _DIRECTORY, dir_fd=top)
    except FileNotFoundError:
        return moved
    try:
        with os.scandir(directory) as entries:
            for entry in list(entries):
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        aside = next(names)
                        os.rename(entry.name, aside, src_dir_fd=directory, dst_dir_fd=top)
                        moved.append(aside)
                    else:
                        os.unlink(entry.name, dir_fd=directory)
    finally:
        os.close(directory)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=top)
    return moved
