"""Chunks in a file of their own: gathered in batches, compressed by a pool, written in order.

The order in which work is handed to the pool is the order in which its results are written, so
the bytes depend on the chunks alone. Memory holds a few pieces at a time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fs.format import codec
from fs.format.blobtable import Compressor
from fs.format.chunkcolumns import LayerChunks
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import BatchContext
from fs.format.errors import local_errors

#: A hand-over to another thread costs as much as compressing some ten KiB.
_WORTH_A_THREAD = 256 << 10
#: Bytes that wait for the pool or are in it, so that it has work while a layer is waited for.
_QUEUED = 16 << 20
#: Pieces of work that may be there however large they are.
_AT_LEAST = 2
#: What lies before a batch that may grow is so many times as large.
_BEFORE_A_BATCH = 8
_COMPRESSED, _BATCH = int(ChunkFlag.COMPRESSED), int(ChunkFlag.BATCH)


class Batches(NamedTuple):
    """How large they may be, decoded: `size`, and more behind much else."""

    size: int
    largest: int

    def limit(self, before: int) -> int:
        return max(self.size, min(self.largest, before // _BEFORE_A_BATCH))


class _Job(NamedTuple):
    """Groups of chunk numbers, each compressed as one; the future has a piece for each group.

    `size` is that of them all before.
    """

    groups: Sequence[Sequence[int]]
    future: Future[list[bytes]]
    size: int


class Section:
    """A part of the blob in a file of its own. `order` are the numbers of its chunks as they lie.

    Compressed offsets and the numbers of batches count from its start.
    """

    def __init__(
        self,
        path: Path,
        chunks: LayerChunks,
        pack: Callable[[bytes], bytes],
        pool: ThreadPoolExecutor,
        batches: Batches,
    ) -> None:
        self.path = path
        self.order = array("I")
        self.batches: list[BatchContext] = []
        self.hash = hashlib.sha256()
        self.size = 0
        self._chunks = chunks
        self._pack = pack
        self._pool = pool
        self._sizes = batches
        self._before = 0
        self._batch: list[int] = []
        self._batch_pieces: list[bytes] = []
        self._batch_used = 0
        self._groups: list[Sequence[int]] = []
        self._pieces: list[Sequence[bytes]] = []
        self._job_size = 0
        self._queue: deque[_Job] = deque()
        self._queued = 0
        self._opened: BinaryIO | None = None

    @property
    def file(self) -> BinaryIO:
        if self._opened is None:
            with local_errors(self.path):
                self._opened = self.path.open("wb")
        return self._opened

    def add(self, number: int, piece: bytes) -> None:
        limit = self._sizes.limit(self._before)
        if len(piece) >= limit // 2:
            if self._batch:
                self._end_batch()
            self._put([number], [piece], len(piece))
            return
        if self._batch_used + len(piece) > limit:
            self._end_batch()
        self._chunks.withins[number] = self._batch_used
        self._batch.append(number)
        self._batch_pieces.append(piece)
        self._batch_used += len(piece)

    def flush(self) -> None:
        if self._batch:
            self._end_batch()
        if self._groups:
            self._submit()
        while self._queue:
            self._write(self._queue.popleft())

    def close(self) -> None:
        if self._opened is not None:
            with suppress(OSError):  # of a full disk, which was reported before
                self._opened.close()
            self._opened = None

    def _end_batch(self) -> None:
        self._put(self._batch, self._batch_pieces, self._batch_used)
        self._batch, self._batch_pieces, self._batch_used = [], [], 0

    def _put(self, group: Sequence[int], pieces: Sequence[bytes], size: int) -> None:
        self.order.extend(group)
        self._groups.append(group)
        self._pieces.append(pieces)
        self._job_size += size
        self._before += size
        if self._job_size >= _WORTH_A_THREAD:
            self._submit()

    def _submit(self) -> None:
        future = self._pool.submit(_compressed, self._pack, self._pieces)
        self._queue.append(_Job(self._groups, future, self._job_size))
        self._queued += self._job_size
        self._groups, self._pieces, self._job_size = [], [], 0
        while self._queue and (self._is_full() or self._queue[0].future.done()):
            self._write(self._queue.popleft())

    def _is_full(self) -> bool:
        return self._queued > _QUEUED and len(self._queue) > _AT_LEAST

    def _write(self, job: _Job) -> None:
        stored = job.future.result()
        self._queued -= job.size
        data = stored[0] if len(stored) == 1 else b"".join(stored)
        with local_errors(self.path):
            self.file.write(data)
        self.hash.update(data)
        for group, piece in zip(job.groups, stored, strict=True):
            self._locate(group, len(piece))
            self.size += len(piece)

    def _locate(self, group: Sequence[int], stored_size: int) -> None:
        chunks = self._chunks
        if len(group) == 1:
            number = group[0]
            chunks.withins[number] = 0
            chunks.compressed_offsets[number] = self.size
            chunks.compressed_sizes[number] = stored_size
            if stored_size < chunks.sizes[number]:
                chunks.flags[number] = _COMPRESSED
            return
        for number in group:
            chunks.compressed_offsets[number] = self.size
            chunks.flags[number] = _COMPRESSED | _BATCH
            chunks.contexts[number] = len(self.batches)
        whole = chunks.withins[group[-1]] + chunks.sizes[group[-1]]
        self.batches.append(BatchContext(stored_size, whole))


def packer(compressor: Compressor, effort: codec.ZstdEffort | None) -> Callable[[bytes], bytes]:
    if effort is not None and compressor == Compressor.ZSTD:
        return partial(codec.compress_zstd, how=effort)
    return partial(codec.compress, compressor)


def _compressed(pack: Callable[[bytes], bytes], groups: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Each group compressed as one, or as it is if that is no longer. Runs in the pool."""
    stored = []
    for pieces in groups:
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        packed = pack(whole)
        stored.append(packed if len(packed) < len(whole) else whole)
    return stored
