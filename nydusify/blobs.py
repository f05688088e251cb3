"""Chunks into blob files: digest, deduplication, compression, one file per layer.

Chunks are numbered in the order in which they are first seen, and lie in the
blobs in that order. Compression runs in a pool, but results are taken in order,
so a blob's bytes do not depend on scheduling. Memory holds a few chunks at a time.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fs.format import codec
from fs.format.blobfile import BlobOptions, build_trailer
from fs.format.blobtable import BlobRecord
from fs.format.chunkinfo import ChunkFlag
from fs.format.errors import local_errors
from fs.format.tree import Chunk

_ALIGNMENT = 4096
#: Handing a smaller piece to another thread costs more than compressing it.
_WORTH_A_THREAD = 16 << 10


class Blob(NamedTuple):
    """A finished blob file. `meta` is the content of its `.blob.meta`."""

    path: Path
    record: BlobRecord
    meta: bytes


class BlobStore:
    """All chunks of one image. Between `finish_layer` calls, new chunks go to one blob.

    `chunks[n]` is the chunk that `add` numbered n; complete after `finish_layer`.
    `shared` counts the additions that found their chunk already there.
    """

    def __init__(self, directory: Path, options: BlobOptions, threads: int) -> None:
        self.chunks: list[Chunk] = []
        self.blobs: list[Blob] = []
        self.shared = 0
        self._directory = directory
        self._options = options
        self._numbers: dict[bytes, int] = {}
        self._zeros: dict[int, int] = {}
        self._pool = ThreadPoolExecutor(threads, "compress")
        self._queue_limit = 2 * threads
        self._writer: _BlobWriter | None = None
        self._queue: deque[tuple[bytes, int, Future[bytes] | bytes]] = deque()

    def add(self, piece: bytes | int) -> int:
        """The number of the chunk that holds `piece`; an int stands for so many zeros."""
        if isinstance(piece, int):
            known = self._zeros.get(piece)
            if known is None:
                known = self._zeros[piece] = self.add(bytes(piece))
            return known
        digest = codec.digest(self._options.digester, piece)
        number = self._numbers.get(digest)
        if number is not None:
            self.shared += 1
            return number
        number = self._numbers[digest] = len(self._numbers)
        self._queue.append((digest, len(piece), self._compressed(piece)))
        if len(self._queue) > self._queue_limit:
            self._write_next()
        return number

    def finish_layer(self) -> Blob | None:
        """End the blob of this layer; None if the layer brought no new chunk."""
        while self._queue:
            self._write_next()
        if self._writer is None:
            return None
        blob = self._writer.finish(self.chunks, self._options)
        self._writer = None
        self.blobs.append(blob)
        return blob

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._writer:
            self._writer.abandon()

    def _compressed(self, piece: bytes) -> Future[bytes] | bytes:
        compressor = self._options.compressor
        if len(piece) < _WORTH_A_THREAD:
            return _smallest(compressor, piece)
        return self._pool.submit(_smallest, compressor, piece)

    def _write_next(self) -> None:
        digest, size, job = self._queue.popleft()
        stored = job.result() if isinstance(job, Future) else job
        if self._writer is None:
            self._writer = _BlobWriter(self._directory, len(self.blobs), len(self.chunks))
        self.chunks.append(self._writer.append(digest, size, stored))


def _smallest(compressor: int, piece: bytes) -> bytes:
    """The piece compressed, or as it is if that is no longer."""
    stored = codec.compress(compressor, piece)
    return stored if len(stored) < len(piece) else piece


class _BlobWriter:
    """One blob file, written front to back."""

    def __init__(self, directory: Path, index: int, first_number: int) -> None:
        self._index = index
        self._first = first_number
        self._path = directory / f"blob-{index}"
        with local_errors(self._path):
            self._file: BinaryIO = self._path.open("wb", buffering=1 << 20)
        self._hash = hashlib.sha256()
        self._count = self._offset = self._decoded_end = 0

    def append(self, digest: bytes, size: int, stored: bytes) -> Chunk:
        with local_errors(self._path):
            self._file.write(stored)
        self._hash.update(stored)
        flags = ChunkFlag.COMPRESSED if len(stored) < size else 0
        chunk = Chunk(
            digest,
            self._index,
            self._count,
            self._offset,
            len(stored),
            self._decoded_end,
            size,
            flags,
        )
        self._count += 1
        self._offset += len(stored)
        self._decoded_end += size + -size % _ALIGNMENT
        return chunk

    def finish(self, chunks: Sequence[Chunk], options: BlobOptions) -> Blob:
        trailer = build_trailer(chunks[self._first :], self._offset, self._hash, options)
        trailer.record.index = self._index
        with local_errors(self._path):
            self._file.write(trailer.data)
            self._file.close()
        return Blob(self._path, trailer.record, trailer.blob_meta)

    def abandon(self) -> None:
        with suppress(OSError):  # of a full disk, which was reported before
            self._file.close()
