"""Who may do what with the files of a cache directory. All locks are flock, so death frees them.

    directory           opening, closing and removing files
    <id>.blob.data      shared: a user of the blob; exclusive: its only one
    <id>.blob.chunks    shared: bytes and bits are being added; exclusive: taken back

They are taken in this order, never against it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def alone(directory: str) -> Iterator[None]:
    """Hold the directory's lock, for the short time in which files come or go."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Whether nobody else has the blob of this .blob.data open; it is then held exclusively."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def changing(descriptor: int, *, back: bool) -> Iterator[None]:
    """Hold the lock of a .blob.chunks for adding chunks, or for taking them `back`. Any thread.

    The file is opened anew, for a lock belongs to an open file: threads of one
    process must exclude each other as processes do.
    """
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(own, fcntl.LOCK_EX if back else fcntl.LOCK_SH)
        yield
    finally:
        os.close(own)


def open_file(path: str) -> int:
    """A cache file for reading and writing, made if missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def sync_directory(directory: str) -> None:
    """Make the names in `directory` last."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
