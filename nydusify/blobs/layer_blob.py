"""A layer's chunks into its blob file: digests, deduplication, and what lies where.

Chunks are numbered as they come. Those of files that are wanted first lie first in the
blob, the others behind them, both in the order of the layer: two sections. A blob's bytes
depend on the chunks and the options alone. Memory holds what its sections hold, and some 100
bytes for each chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from fs.format import codec
from fs.format.blobfile import BlobOptions, build_trailer
from fs.format.blobtable import BlobRecord, Compressor
from fs.format.chunkcolumns import LayerChunks
from fs.format.chunkinfo import ChunkFlag
from fs.format.errors import local_errors
from nydusify.blobs.repacking import Data, repack
from nydusify.blobs.section import Batches, Section, packer

if TYPE_CHECKING:
    from hashlib import _Hash

_ALIGNMENT = 4096
_COPIED_AT_ONCE = 1 << 20
#: Numbers from here on are those of chunks that are stored elsewhere.
_ELSEWHERE = 1 << 32
_BATCH = int(ChunkFlag.BATCH)


class Blob(NamedTuple):
    """A finished blob file. `meta` is the content of its `.blob.meta`."""

    path: Path
    record: BlobRecord
    meta: bytes


class KnownChunks(Protocol):
    """Chunks that need not be stored again, such as those of a chunk dictionary."""

    def find(self, digest: bytes, size: int) -> tuple[LayerChunks, int] | None: ...


class NothingKnown:
    def find(self, digest: bytes, size: int) -> tuple[LayerChunks, int] | None:
        return None


class BlobBuilder:
    """The blob of one layer, written to `path`. Not thread-safe; compression runs in `pool`.

    Pieces smaller than half of `batch_size` are put together in batches of up to that; 0: none.
    `largest_batch`: up to that, batches grow to an eighth of what lies before them, so that
    nobody who reads front to back waits much longer for them.
    `shared` counts the additions that found their chunk already there, `shared_size` their bytes.
    `repacked` bytes, decoded, were packed a second time. `effort`: of zstd, where it is
    not the one of all other blobs.
    """

    def __init__(
        self,
        path: Path,
        options: BlobOptions,
        pool: ThreadPoolExecutor,
        *,
        batch_size: int = 0,
        largest_batch: int = 0,
        known: KnownChunks | None = None,
        effort: codec.ZstdEffort | None = None,
    ) -> None:
        self.chunks = LayerChunks()
        self.shared = self.shared_size = self.repacked = 0
        self._path = path
        self._options = options
        self._pool = pool
        self._known = known or NothingKnown()
        # Half of the digest will do as a key: what is found is compared.
        self._numbers: dict[bytes, int] = {}
        self._zeros: dict[int, int] = {}
        self._found: list[tuple[LayerChunks, int]] = []
        batch_size = 0 if options.compressor == Compressor.NONE else batch_size
        batches = Batches(batch_size, largest_batch if batch_size else 0)
        first = path.with_name(path.name + ".first")
        self._ranked = _Ranked(path.with_name(path.name + ".ranked"))
        pack = packer(options.compressor, effort)
        self._first = Section(first, self.chunks, pack, pool, batches)
        self._rest = Section(path, self.chunks, pack, pool, batches)

    def add(self, piece: bytes | int, rank: int | None = None) -> int:
        """The preliminary number of the chunk `piece`; an int stands for so many zeros.

        Chunks with a rank lie first in the blob, the lowest before the others.
        """
        if isinstance(piece, int):
            known = self._zeros.get(piece)
            if known is None:
                known = self._zeros[piece] = self.add(bytes(piece), rank)
            return known
        digest = codec.digest(self._options.digester, piece)
        number = self._numbers.get(digest[:16])
        if number is not None and self._digest(number) == digest:
            self.shared += 1
            self.shared_size += len(piece)
            return number
        number = self._new(digest, piece, rank)
        self._numbers[digest[:16]] = number
        return number

    def numbers(self, added: Iterable[int]) -> array[int]:
        """The final numbers of what `add` returned; to be asked after `finish`."""
        own = len(self.chunks)
        final = self._final
        return array(
            "Q",
            [
                final[number] if number < _ELSEWHERE else own + number - _ELSEWHERE
                for number in added
            ],
        )

    def finish(self, wanted: int = 0) -> Blob | None:
        """Write what is left; None if all chunks are elsewhere.

        What zstd makes larger than `wanted` bytes is packed again, if that is not 0.
        """
        self._numbers.clear()
        for number, piece in self._ranked.take():
            self._first.add(number, piece)
        self._first.flush()
        self._rest.flush()
        order = self._first.order + self._rest.order
        self._final = array("I", bytes(4 * len(order)))
        for position, number in enumerate(order):
            self._final[number] = position
        self._place(order)
        own = len(self.chunks)
        self.chunks.elsewhere = {own + n: found for n, found in enumerate(self._found)}
        if not own:
            self.close()
            return None
        return self._write_end(wanted)

    def close(self) -> None:
        """Let go of the files."""
        self._ranked.close()
        self._first.close()
        self._rest.close()

    def _digest(self, number: int) -> bytes:
        if number < _ELSEWHERE:
            return self.chunks.digest(number)
        table, there = self._found[number - _ELSEWHERE]
        return table.digest(there)

    def _new(self, digest: bytes, piece: bytes, rank: int | None) -> int:
        found = self._known.find(digest, len(piece))
        if found is not None:
            self.shared += 1
            self.shared_size += len(piece)
            self._found.append(found)
            return _ELSEWHERE + len(self._found) - 1
        number = self.chunks.append(digest, len(piece))
        if rank is None:
            self._rest.add(number, piece)
        else:
            self._ranked.add(rank, number, piece)
        return number

    def _place(self, order: array[int]) -> None:
        """Put the columns in the order of the blob, and say where each chunk lies."""
        chunks = self.chunks
        if any(position != number for position, number in enumerate(order)):
            chunks.reorder(order)
        moved_by, batches_before = self._first.size, len(self._first.batches)
        for position in range(len(self._first.order), len(order)):
            chunks.compressed_offsets[position] += moved_by
            if chunks.flags[position] & _BATCH:
                chunks.contexts[position] += batches_before
        end = 0
        for position, size in enumerate(chunks.sizes):
            chunks.uncompressed_offsets[position] = end
            end += size + -size % _ALIGNMENT

    def _write_end(self, wanted: int) -> Blob:
        data_hash, file = self._rest.hash, self._rest.file
        size = self._first.size + self._rest.size
        if self._first.size:
            data_hash, file = self._joined()
        with local_errors(self._path):
            file.flush()
        self.close()
        batches = [*self._first.batches, *self._rest.batches]
        data = Data(self._path, data_hash, size)
        if wanted and self._options.compressor == Compressor.ZSTD:
            data = repack(data, self.chunks, batches, wanted, self._pool)
        self.repacked = data.repacked
        trailer = build_trailer(self.chunks, data.size, data.hash, self._options, batches=batches)
        with local_errors(self._path), self._path.open("ab") as end:
            end.write(trailer.data)
        return Blob(self._path, trailer.record, trailer.blob_meta)

    def _joined(self) -> tuple[_Hash, BinaryIO]:
        """One file of both sections, the first of them first, and the hash of it all."""
        data_hash, file = self._first.hash, self._first.file
        self._rest.close()
        with local_errors(self._path):
            if self._rest.size:
                with self._path.open("rb", buffering=0) as rest:
                    while data := rest.read(_COPIED_AT_ONCE):
                        data_hash.update(data)
                        file.write(data)
            self._first.path.rename(self._path)
        return data_hash, file


class _Ranked:
    """Pieces that wait, in a file, for the others that are to lie before them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        #: (rank, order of arrival, number, offset, size)
        self._entries: list[tuple[int, int, int, int, int]] = []
        self._size = 0

    def add(self, rank: int, number: int, piece: bytes) -> None:
        with local_errors(self._path):
            if self._file is None:
                self._file = self._path.open("w+b")
            self._file.write(piece)
        self._entries.append((rank, len(self._entries), number, self._size, len(piece)))
        self._size += len(piece)

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each piece, in order of ranks; then the file is gone."""
        if self._file is None:
            return
        for _, _, number, offset, size in sorted(self._entries):
            with local_errors(self._path):
                self._file.seek(offset)
                piece = self._file.read(size)
            yield number, piece
        self.close()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = None
