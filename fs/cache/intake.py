"""How a chunk enters a cache: decoded, verified by its digest, then written. Runs in threads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fs.cache.claims import AS_A_WHOLE
from fs.cache.files import BlobFiles
from fs.cache.index import ContentIndex
from fs.cache.plan import by_piece
from fs.cache.quota import Quota
from fs.format import codec
from fs.format.blobtable import BlobRecord, Compressor
from fs.format.chunkinfo import IN_A_PIECE, ChunkFlag
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, FormatError, VerifyError
from fs.format.tree import NO_CONTEXT

#: What compression may add to a small chunk (bytes).
_FRAMING = 16 << 10


class Decoded(NamedTuple):
    """A row and its bytes, or why there are none. `stored`: the files have it."""

    row: int
    data: bytes | None
    error: Failure | None
    stored: bool


class Intake:
    """For one blob. `files` is None when nothing can be stored, `index` when nothing is shared."""

    def __init__(
        self,
        blob: BlobRecord,
        table: ChunkTable,
        digester: int,
        files: BlobFiles | None,
        index: ContentIndex | None = None,
        quota: Quota | None = None,
    ) -> None:
        self._blob = blob
        self._table = table
        self._digester = digester
        self._files = files
        self._index = index
        self._quota = quota

    def adopt(self, files: BlobFiles, index: ContentIndex) -> None:
        """From now on chunks can be stored; what is being decoded may be, or not."""
        self._files, self._index = files, index

    def check(self, row: int) -> None:
        """FormatError unless the row is of a kind and size that can be fetched."""
        chunk = self._table.row(row)
        pieces = self._table.pieces
        size = chunk.uncompressed_size
        if pieces is not None and chunk.context != NO_CONTEXT:
            size = pieces.size(chunk.context)
        elif chunk.flags & IN_A_PIECE:
            raise FormatError("a chunk of a piece that nothing tells of", self._where(chunk))
        if chunk.flags & ChunkFlag.ENCRYPTED:
            raise FormatError("encrypted chunks are not supported", self._where(chunk))
        if chunk.compressed_size > 2 * size + _FRAMING:
            raise FormatError(f"absurd compressed size {chunk.compressed_size}", self._where(chunk))

    def decode(self, rows: Iterable[int], base: int, body: bytes | memoryview) -> list[Decoded]:
        """Take in `rows` from compressed bytes that begin at offset `base` of the blob."""
        view = memoryview(body)
        results: list[Decoded] = []
        for mates in by_piece(self._table, rows):
            results += self._decode_piece(mates, base, view)
        self._tell(results)
        return results

    def _decode_piece(self, rows: list[int], base: int, view: memoryview) -> list[Decoded]:
        """Chunks of one piece: it is decoded once, and each of them is verified."""
        first = self._table.row(rows[0])
        start = first.compressed_offset - base
        stored = view[start : start + first.compressed_size]
        try:
            piece: bytes | memoryview = self._decompressed(first, stored)
        except Failure as error:
            return [Decoded(row, None, error, False) for row in rows]
        results = []
        for row in rows:
            chunk = self._table.row(row)
            data = bytes(piece)
            if chunk.context != NO_CONTEXT:
                data = bytes(memoryview(piece)[chunk.within :][: chunk.uncompressed_size])
            try:
                if not self._is_right(chunk, data):
                    raise VerifyError(f"{self._where(chunk)}: its bytes do not have their digest")
                results.append(Decoded(row, data, None, self._store(chunk, data)))
            except Failure as error:
                results.append(Decoded(row, None, error, False))
        return results

    def may_copy(self) -> bool:
        return self._index is not None

    def copy(self, rows: Iterable[int]) -> list[Decoded]:
        """Take in those of `rows` whose bytes another blob of the cache has."""
        results: list[Decoded] = []
        if self._index is None:
            return results
        for row in rows:
            chunk = self._table.row(row)
            data = self._index.read(self._digester, chunk.digest, chunk.uncompressed_size)
            if data is not None and self._is_right(chunk, data):
                results.append(Decoded(row, data, None, self._store(chunk, data)))
        return results

    def recheck(self, row: int) -> bytes | None:
        """A suspect chunk's bytes if they are right; otherwise it is no suspect any more."""
        assert self._files is not None
        chunk = self._table.row(row)
        data = None
        if self._digester != AS_A_WHOLE:
            data = self._files.suspected(chunk.uncompressed_offset, chunk.uncompressed_size)
        if data is None or not self._is_right(chunk, data):
            self._files.drop(chunk.position)
            return None
        self._files.believe(chunk.position)
        return data

    def _decompressed(self, chunk: ChunkRow, stored: memoryview) -> bytes:
        """The piece that holds the chunk, decoded."""
        pieces = self._table.pieces
        try:
            if pieces is not None and chunk.context != NO_CONTEXT:
                return pieces.decode(chunk.context, stored, "")
            compressor = self._blob.compressor if chunk.flags & ChunkFlag.COMPRESSED else 0
            if compressor == Compressor.GZIP:
                return codec.decompress_gzip_start(stored, chunk.uncompressed_size)
            return codec.decompress(compressor, stored, chunk.uncompressed_size)
        except FormatError as error:
            raise VerifyError(f"{self._where(chunk)}: {error}") from error

    def _is_right(self, chunk: ChunkRow, data: bytes) -> bool:
        """What comes out of a proven whole needs no digest of its own."""
        if self._digester == AS_A_WHOLE:
            return True
        return codec.digest(self._digester, data) == chunk.digest

    def _store(self, chunk: ChunkRow, data: bytes) -> bool:
        if self._files is None or (self._quota is not None and self._quota.full):
            return False
        return self._files.store(chunk.position, chunk.uncompressed_offset, data)

    def _tell(self, results: list[Decoded]) -> None:
        """Let other blobs find what was stored."""
        if self._index is None or self._files is None:
            return
        table, stored = self._table, [decoded.row for decoded in results if decoded.stored]
        if stored:
            found = ((table.digest(row), table.uncompressed_offsets[row]) for row in stored)
            self._index.add(self._digester, self._files.data_path, found)

    def _where(self, chunk: ChunkRow) -> str:
        return f"blob {self._blob.blob_id} chunk {chunk.position}"
