"""Layers that are being unpacked: active snapshots that nobody may need any more.

Who unpacks holds a shared lock on ROOT/pulling; the kernel frees it however the
process ends. Whoever gets the lock for itself alone knows that every extraction
is left over from a pull that was killed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fs.format.errors import NotFoundError, local_errors
from snapshotter.store import Store
from snapshotter.trees import remove_tree

_PREFIX = "extract/"


@contextmanager
def extracting(store: Store) -> Iterator[None]:
    """Extractions made inside are safe from `remove_abandoned`."""
    with _lock_file(store) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


def new_key(name: str) -> str:
    """A key of its own for one attempt at layer `name`."""
    return f"{_PREFIX}{os.urandom(6).hex()} {name}"


def discard(store: Store, key: str) -> None:
    """Remove an extraction: its data first, since a full disk takes no record of anything."""
    with suppress(NotFoundError):
        if upper := store.layers(key).upper:
            remove_tree(upper)
        store.remove(key)


def remove_abandoned(store: Store) -> int:
    """Remove what killed pulls left; their number. Waits for nobody: a later call does it too."""
    with _lock_file(store) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        keys = [info.name for info in store.walk() if info.name.startswith(_PREFIX)]
        for key in keys:
            discard(store, key)
        return len(keys)


@contextmanager
def _lock_file(store: Store) -> Iterator[int]:
    path = os.path.join(store.root, "pulling")
    with local_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
