"""Temporary files of a run: one directory, gone when the run ends, however it ends.

A run that was killed leaves its directory to the next one below the same parent. Whoever holds
the lock of a directory may use or remove it; the kernel frees the lock when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fs.format.errors import local_errors

#: /tmp is often kept in memory; what is written here is as large as an image.
_DEFAULT = Path("/var/tmp")
#: Other directories are not looked at: who uses them may not know of locks.
_PREFIX = "nydusify-run-"


@contextmanager
def workplace(parent: Path | None) -> Iterator[Path]:
    """A new directory in `parent`, else in /var/tmp."""
    base = parent or _DEFAULT
    with local_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(base)
        made, lock = _make(base)
    try:
        with made as path:
            yield Path(path)
    finally:
        os.close(lock)


def _make(base: Path) -> tuple[tempfile.TemporaryDirectory[str], int]:
    """A new directory and a descriptor of it, which holds its lock where such locks are."""
    while True:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=base, ignore_cleanup_errors=True)
        with suppress(FileNotFoundError):
            lock = _open(Path(made.name))
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, Path(made.name)):
                return made, lock
            os.close(lock)
        made.cleanup()  # another run took it for a leftover


def _remove_leftovers(base: Path) -> None:
    """What runs of this user left in `base` that are no more. What cannot be removed stays."""
    with os.scandir(base) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(_PREFIX)]
    for path in found:
        with suppress(OSError):
            _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    """OSError if it is no directory, or its lock is held, or there are no such locks."""
    lock = _open(path)
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(lock, path) and not _has_mounts(path):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _has_mounts(path: Path) -> bool:
    """Whether a file system is mounted there or below: what it shows is not ours to remove."""
    name = b"/" + os.fsencode(path.name)
    with open("/proc/self/mountinfo", "rb") as table:
        places = [line.split(b" ", 5)[4] + b"/" for line in table]
    return any(name + b"/" in place for place in places)
