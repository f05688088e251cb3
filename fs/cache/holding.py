"""A blob's files as those see them who keep the cache: eviction, and `nydus-fs cache`.

They work beside processes that have the blob open, or none. Opened under the
directory's lock, so that data, map and columns are of one making; changed only
under the changing lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from fs.cache.claims import Claims, Columns
from fs.cache.files import unsettle
from fs.cache.locks import alone, changing, try_lock
from fs.format import chunkmap

DATA = ".blob.data"
_PAGE = mmap.PAGESIZE


def prefixes(directory: str) -> list[str]:
    """The path of every blob's files, up to and with `.blob`."""
    return [
        os.path.join(parent, name.removesuffix(".data"))
        for parent, _, names in os.walk(directory)
        for name in sorted(names)
        if name.endswith(DATA)
    ]


class Holding:
    """`claims` is None for files that are not ours (yet). `idle`: nobody had them open just now."""

    def __init__(
        self, prefix: str, data: int, bits: mmap.mmap, claims: Claims | None, *, idle: bool
    ) -> None:
        self.prefix = prefix
        self.data = data
        self.idle = idle
        self.claims = claims
        self._bits = bits

    def allocated(self) -> int:
        """Bytes that the files take on disk."""
        total = os.fstat(self.data).st_blocks * 512
        for suffix in (".data.chunk_map", ".chunks", ".state", ".meta"):
            try:
                total += os.lstat(self.prefix + suffix).st_blocks * 512
            except OSError:
                continue
        return total

    def chunk_count(self) -> int:
        return self.claims.chunk_count if self.claims else 8 * (len(self._bits) - _MAP_HEADER)

    def ready_count(self) -> int:
        return chunkmap.count_ready(self._bits)

    def last_use(self) -> int:
        """Seconds since 1970."""
        if self.claims is None or not len(self.claims.used):
            return int(os.fstat(self.data).st_mtime)
        return self.claims.last_use()

    def is_frozen(self) -> bool:
        return self.claims is not None and self.claims.is_frozen()

    def is_ready(self, position: int) -> bool:
        byte, mask = chunkmap.bit(position)
        return self._bits[byte] & mask != 0

    def ready(self) -> Iterator[int]:
        """The positions of the chunks that are here."""
        for start in range(_MAP_HEADER, len(self._bits)):
            if self._bits[start]:
                first = 8 * (start - _MAP_HEADER)
                yield from filter(self.is_ready, range(first, first + 8))

    def columns(self) -> Columns:
        assert self.claims is not None
        with changing(self.claims.descriptor, back=False):
            return self.claims.columns()

    def take_back(self, positions: Iterable[int], columns: Columns) -> None:
        """Let these chunks go, and their room on disk. Hold the changing lock for taking back.

        The order is what readers and crashes rest on: the stamp, the bits, the
        bits on disk, the bytes, the stamp. A frozen file keeps its bytes and loses its
        name: it must not be given to a kernel again.
        """
        assert self.claims is not None
        chosen = sorted(positions, key=columns.offsets.__getitem__)
        unsettle(self.prefix, self._bits)
        self.claims.begin_taking_back()
        for position in chosen:
            byte, mask = chunkmap.bit(position)
            self._bits[byte] &= ~mask & 0xFF
        self._bits.flush()
        if not self.is_frozen():
            for start, end in _ranges(chosen, columns):
                _punch(self.data, start, end)
        elif chosen:
            with suppress(FileNotFoundError):
                os.unlink(self.prefix + ".data")
        self.claims.end_taking_back()


_MAP_HEADER = chunkmap.HEADER_SIZE


@contextmanager
def open_holding(directory: str, prefix: str) -> Iterator[Holding]:
    """OSError or ValueError when the files are not whole."""
    with ExitStack() as stack:
        with alone(directory):
            data = os.open(prefix + ".data", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, data)
            idle = try_lock(data)
            if idle:
                fcntl.flock(data, fcntl.LOCK_UN)
            bits = _map(prefix + ".data.chunk_map")
            stack.callback(bits.close)
            claims = Claims.open_existing(prefix + ".chunks")
            if claims is not None:
                stack.callback(claims.close)
                if len(bits) != chunkmap.file_size(claims.chunk_count):
                    raise ValueError(f"{prefix}: chunk map and columns are of different size")
        yield Holding(prefix, data, bits, claims, idle=idle)


def _map(path: str) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def _ranges(chosen: list[int], columns: Columns) -> list[tuple[int, int]]:
    """Where these chunks lie, in whole pages that hold nothing else; neighbours joined.

    In a blob whose chunks all begin at pages, the rest of a chunk's last page is nobody's.
    """
    offsets, sizes = columns.offsets, columns.sizes
    aligned = not any(offset % _PAGE for offset, size in zip(offsets, sizes, strict=True) if size)
    ranges: list[tuple[int, int]] = []
    for position in chosen:
        start, end = offsets[position], offsets[position] + sizes[position]
        start = -(-start // _PAGE) * _PAGE
        end = -(-end // _PAGE) * _PAGE if aligned else end // _PAGE * _PAGE
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
        elif start < end:
            ranges.append((start, end))
    return ranges


def _punch(descriptor: int, start: int, end: int) -> None:
    """Give the pages of a range back to the file system; they read as zeros."""
    size = os.fstat(descriptor).st_size
    end = min(end, -(-size // _PAGE) * _PAGE)
    if start >= size:
        return
    with mmap.mmap(descriptor, min(end, size) - start, offset=start) as pages:
        pages.madvise(mmap.MADV_REMOVE)
