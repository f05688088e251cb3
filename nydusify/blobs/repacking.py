"""The pieces of a blob packed again, harder, until it is as small as it should be.

At the level of all others some layers come out hardly smaller than they were with gzip:
machine code, and the small images of a single program. What the blob has is read back then and
packed anew, piece after piece in the order of the blob, harder and harder, only as
far as it takes. A piece is a batch or a chunk alone; those that did not
compress stay as they are. The result depends on the pieces and the goal alone: pieces
are begun by what those that lie a fixed number before them have become.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from fs.format import codec
from fs.format.blobtable import Compressor
from fs.format.chunkcolumns import LayerChunks
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import BatchContext
from fs.format.errors import local_errors

if TYPE_CHECKING:
    from hashlib import _Hash

#: What is beside the data in blob and bootstrap, in bytes: for any layer, and for each chunk.
_FIXED, _PER_CHUNK = 9 << 10, 130
#: Data that is smaller is hardly worth a request.
_WORTH_IT = 64 << 10
#: How all blobs are packed again, and those of up to so many bytes (decoded) after that, by
#: levels of zstd and its search; figures are in docs/choices.md.
_FIRST = 6
_THEN, _SMALL = (codec.SHORT_SEARCH, 18), 16 << 20
#: In the keys of kept layers: to be another whenever the same pieces would become others.
MANNER = "short"
#: By more than this part of itself a small one does not become smaller by the first.
_BROUGHT = 25
#: By less than this part of itself what is packed already becomes smaller, whatever the level.
_HOPELESS = 5
#: Pieces that are packed at a time.
_AT_ONCE = 4
_BATCH = int(ChunkFlag.BATCH)


class Data(NamedTuple):
    """A blob's data alone in a file: its SHA-256 and size; `repacked` bytes, decoded, were packed
    a second time.
    """

    path: Path
    hash: _Hash
    size: int
    repacked: int = 0


@dataclass
class _Pieces:
    """By number, in the order of the blob: first chunk, bytes as stored and decoded."""

    first: array[int] = field(default_factory=lambda: array("I"))
    stored: array[int] = field(default_factory=lambda: array("I"))
    decoded: array[int] = field(default_factory=lambda: array("I"))

    def add(self, first: int, stored: int, decoded: int) -> None:
        self.first.append(first)
        self.stored.append(stored)
        self.decoded.append(decoded)

    @property
    def compressed(self) -> int:
        """Bytes as stored of those that are compressed at all."""
        pairs = zip(self.stored, self.decoded, strict=True)
        return sum(stored for stored, decoded in pairs if stored < decoded)


def repack(
    data: Data,
    chunks: LayerChunks,
    batches: list[BatchContext],
    size: int,
    pool: ThreadPoolExecutor,
) -> Data:
    """Make zstd data so small that it takes `size` bytes with all that belongs to it, if it can be.

    `chunks` and `batches`, which are in the order of the data, are changed along.
    """
    goal = size - _FIXED - _PER_CHUNK * len(chunks)
    if data.size < _WORTH_IT or data.size <= goal:
        return data
    pieces = _pieces(chunks, batches)
    if data.size - goal > pieces.compressed // _HOPELESS:
        return data
    touched: set[int] = set()
    for how in _ways(pieces, data.size - goal):
        if data.size > goal:
            data = _Pass(data, goal, pieces, how, pool).run(touched)
    _relocate(pieces, chunks, batches)
    return data._replace(repacked=sum(pieces.decoded[number] for number in touched))


def _pieces(chunks: LayerChunks, batches: Sequence[BatchContext]) -> _Pieces:
    pieces = _Pieces()
    number = 0
    while number < len(chunks):
        if not chunks.flags[number] & _BATCH:
            pieces.add(number, chunks.compressed_sizes[number], chunks.sizes[number])
            number += 1
            continue
        context = chunks.contexts[number]
        pieces.add(number, *batches[context])
        while number < len(chunks) and chunks.contexts[number] == context:
            number += 1
    return pieces


def _ways(pieces: _Pieces, missing: int) -> Sequence[codec.ZstdEffort]:
    """How to pack what is to become `missing` bytes smaller, one after the other."""
    if sum(pieces.decoded) > _SMALL:
        return (_FIRST,)
    return _THEN if missing > pieces.compressed // _BROUGHT else (_FIRST, *_THEN)


def _relocate(pieces: _Pieces, chunks: LayerChunks, batches: list[BatchContext]) -> None:
    """Say of the chunks where they lie now."""
    ends = [*pieces.first[1:], len(chunks)]
    offset = 0
    for first, end, stored in zip(pieces.first, ends, pieces.stored, strict=True):
        for number in range(first, end):
            chunks.compressed_offsets[number] = offset
        if chunks.flags[first] & _BATCH:
            context = chunks.contexts[first]
            batches[context] = batches[context]._replace(compressed_size=stored)
        else:
            chunks.compressed_sizes[first] = stored
        offset += stored


class _Pass:
    """Once through all data, in one way."""

    def __init__(
        self,
        data: Data,
        goal: int,
        pieces: _Pieces,
        how: codec.ZstdEffort,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._path = data.path
        self._size = data.size
        self._goal = goal
        self._pieces = pieces
        self._how = how
        self._pool = pool
        self._hash = hashlib.sha256()
        self._waiting: deque[tuple[int, bytes | Future[bytes]]] = deque()

    def run(self, touched: set[int]) -> Data:
        """What is in the file then; `touched` gets the numbers of the pieces that were packed."""
        new = self._path.with_name(self._path.name + ".repacked")
        with local_errors(self._path), self._path.open("rb") as old, new.open("wb") as out:
            for number, size in enumerate(self._pieces.stored):
                while len(self._waiting) >= _AT_ONCE:
                    self._write(out)
                stored = old.read(size)
                whole = self._pieces.decoded[number]
                if self._size > self._goal and size < whole:
                    touched.add(number)
                    packed = self._pool.submit(_packed, stored, whole, self._how)
                    self._waiting.append((number, packed))
                else:
                    self._waiting.append((number, stored))
            while self._waiting:
                self._write(out)
            new.rename(self._path)
        return Data(self._path, self._hash, self._size)

    def _write(self, out: BinaryIO) -> None:
        number, packed = self._waiting.popleft()
        data = packed if isinstance(packed, bytes) else packed.result()
        self._size -= self._pieces.stored[number] - len(data)
        self._pieces.stored[number] = len(data)
        self._hash.update(data)
        out.write(data)


def _packed(stored: bytes, size: int, how: codec.ZstdEffort) -> bytes:
    """The piece packed so, or as it was if that is no longer. Runs in the pool."""
    whole = codec.decompress(Compressor.ZSTD, stored, size)
    packed = codec.compress_zstd(whole, how)
    return packed if len(packed) < len(stored) else stored
