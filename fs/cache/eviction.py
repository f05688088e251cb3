"""What goes when a cache directory is too large: the least recently used first.

What is evicted depends on who has the blob open:

* nobody: the whole blob, by unlinking its files. Its age is that of its chunk
  that was read last. Unlinking is right even if a kernel still has the file as a device.
* some process: single chunks, by punching holes; for a blob that is mounted for
  weeks would otherwise keep for ever what only its start needed. Readers see
  by the stamp that bytes went while they read.
* a process, and frozen for the kernel: nothing, for the kernel reads without asking.

Both are compared by their age, to the second, as `.blob.chunks` remembers it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from contextlib import suppress

from fs.cache.holding import Holding, open_holding, prefixes
from fs.cache.index import ContentIndex
from fs.cache.locks import alone, changing, sync_directory, try_lock

log = logging.getLogger(__name__)


def allocated(directory: str) -> int:
    """Bytes that all files below `directory` take on disk."""
    found: dict[int, int] = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(parent, name))
                found[status.st_ino] = status.st_blocks * 512  # a chunk map has two names
    return sum(found.values())


def evict(
    directory: str, target: int, *, grace: float = 0, index: ContentIndex | None = None
) -> int:
    """Free the oldest until `target` bytes are left, if that can be; how many are left.

    Nothing goes that was read within `grace` seconds.
    """
    size = allocated(directory)
    if size <= target:
        return size
    threshold = _threshold(directory, size - target, int(time.time() - grace))
    for prefix in prefixes(directory):
        if size <= target:
            break
        try:
            size -= _evict_blob(directory, prefix, threshold, size - target, index)
        except (OSError, ValueError) as error:
            log.warning("%s cannot be evicted: %s", prefix, error)
    return allocated(directory)


def _threshold(directory: str, needed: int, newest: int) -> int:
    """The time of last use up to which chunks must go, at most `newest`."""
    ages: Counter[int] = Counter()
    for prefix in prefixes(directory):
        with suppress(OSError, ValueError), open_holding(directory, prefix) as holding:
            ages.update(_ages(holding))
    for age in sorted(ages):
        needed -= ages[age]
        if needed <= 0:
            return min(age, newest)
    return newest


def _ages(holding: Holding) -> Counter[int]:
    """Bytes by the time of their last use."""
    if holding.idle:
        return Counter({holding.last_use(): holding.allocated()})
    ages: Counter[int] = Counter()
    if holding.claims is not None and not holding.is_frozen():
        sizes = holding.columns().sizes
        for position in holding.ready():
            ages[holding.claims.used[position]] += sizes[position]
    return ages


def _evict_blob(
    directory: str, prefix: str, threshold: int, needed: int, index: ContentIndex | None
) -> int:
    """Free about `needed` bytes of what was not used after `threshold`; how many."""
    with open_holding(directory, prefix) as holding:
        if not holding.idle:
            return _evict_chunks(holding, threshold, needed)
        if holding.last_use() > threshold:
            return 0
    return remove(directory, prefix, index)


def _evict_chunks(holding: Holding, threshold: int, needed: int) -> int:
    claims = holding.claims
    if claims is None:
        return 0
    before = holding.allocated()
    with changing(claims.descriptor, back=True):
        if claims.is_frozen():
            return 0
        columns = claims.columns()
        old = [position for position in holding.ready() if claims.used[position] <= threshold]
        old.sort(key=claims.used.__getitem__)
        chosen = []
        for position in old:
            if needed <= 0:
                break
            needed -= columns.sizes[position]
            chosen.append(position)
        if chosen:
            holding.take_back(chosen, columns)
    return before - holding.allocated()


def remove(directory: str, prefix: str, index: ContentIndex | None) -> int:
    """Unlink the files of a blob if nobody has it open; the bytes that frees."""
    with alone(directory):
        data = os.open(prefix + ".data", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _unlink_files(prefix) if try_lock(data) else 0
        finally:
            os.close(data)
            if index is not None:
                index.forget(prefix + ".data")


def _unlink_files(prefix: str) -> int:
    folder, name = os.path.split(prefix)
    with suppress(FileNotFoundError):
        os.unlink(prefix + ".state")  # without it, nothing that a crash leaves here is trusted
    sync_directory(folder)
    freed = 0
    for entry in list(os.scandir(folder)):
        if entry.name.startswith((name + ".", name.removesuffix("blob") + "chunk_map")):
            freed += entry.stat(follow_symlinks=False).st_blocks * 512
            os.unlink(entry.path)
    return freed
