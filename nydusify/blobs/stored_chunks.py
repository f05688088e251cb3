"""Chunks read from blobs that need not be published yet, each verified by its digest.

What is stored together is decoded together, and kept for a while: who wants one chunk of a
batch often wants the next.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from fs.backend.blobs import BlobBackend
from fs.format import codec
from fs.format.blobmeta import chunk_info_range, chunk_rows, read_blob_meta, read_chunk_info
from fs.format.blobtable import BlobFeature, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import MAX_PIECE, BatchContext, batch_contexts
from fs.format.errors import FormatError, VerifyError
from fs.format.pieces import Batches
from fs.format.tree import Chunk
from nydusify.blobs.layer_blob import Blob

#: Decoded bytes that are kept.
_KEPT = 32 << 20
_COMPRESSED, _BATCH = int(ChunkFlag.COMPRESSED), int(ChunkFlag.BATCH)


class Piece(NamedTuple):
    """What is stored as one, a chunk or a batch of them: blob and offset, sizes in bytes."""

    blob_index: int
    offset: int
    stored: int
    decoded: int


class _Decoded(NamedTuple):
    """A piece's bytes, and what of it has its digest: digest, offset, size."""

    data: bytes
    verified: set[tuple[bytes, int, int]]


class _Information(NamedTuple):
    """A blob's batches; context and offset of each chunk by position, where chunks lack them."""

    contexts: Sequence[BatchContext]
    batches: Batches
    places: dict[int, tuple[int, int]]


class StoredChunks:
    """The chunks of an image's blobs, which are in the order of their index.

    From `known` on the blobs are of a chunk dictionary, whose chunks do not say which batch they
    are of. `backend` stays the caller's.
    """

    def __init__(self, blobs: Sequence[Blob], known: int, backend: BlobBackend) -> None:
        self._blobs = blobs
        self._known = known
        self._backend = backend
        self._information: dict[int, _Information] = {}
        self._decoded: OrderedDict[Piece, _Decoded] = OrderedDict()
        self._size = 0

    def read(self, chunk: Chunk) -> bytes:
        """The chunk's bytes. VerifyError, FormatError, and what the backend raises."""
        piece = self.piece(chunk)
        decoded = self._decoded.pop(piece, None)
        if decoded is None:
            decoded = _Decoded(self._decode(chunk, piece, self._where(chunk)), set())
            self._size += len(decoded.data)
        self._decoded[piece] = decoded
        while self._size > _KEPT and len(self._decoded) > 1:
            self._size -= len(self._decoded.popitem(last=False)[1].data)
        data, within, size = decoded.data, 0, chunk.uncompressed_size
        if chunk.flags & _BATCH:
            _, within = self._place(chunk)
            data = data[within : within + size]
        known = chunk.digest, within, size
        if known not in decoded.verified:
            digester = Digester(self._blobs[chunk.blob_index].record.digester)
            if codec.digest(digester, data) != chunk.digest:
                raise VerifyError(f"{self._where(chunk)}: its bytes do not have their digest")
            decoded.verified.add(known)
        return data

    def piece(self, chunk: Chunk) -> Piece:
        """What has to be fetched for the chunk. FormatError if that is impossible."""
        if not chunk.flags & _BATCH:
            stored, decoded = chunk.compressed_size, chunk.uncompressed_size
        else:
            contexts = self._informed(chunk.blob_index).contexts
            context, _ = self._place(chunk)
            if not 0 <= context < len(contexts):
                raise FormatError(f"batch {context} of {len(contexts)}", self._where(chunk))
            stored, decoded = contexts[context]
        if not (0 < stored <= 2 * MAX_PIECE and 0 < decoded <= MAX_PIECE):
            raise FormatError(f"is of {decoded} bytes, stored as {stored}", self._where(chunk))
        return Piece(chunk.blob_index, chunk.compressed_offset, stored, decoded)

    def _decode(self, chunk: Chunk, piece: Piece, where: str) -> bytes:
        record = self._blobs[chunk.blob_index].record
        stored = self._backend.read(record.blob_id, piece.offset, piece.stored)
        if chunk.flags & _BATCH:
            context, _ = self._place(chunk)
            batches = self._informed(chunk.blob_index).batches
            return batches.decode(context, memoryview(stored), where)
        kind = record.compressor if chunk.flags & _COMPRESSED else Compressor.NONE
        return codec.decompress(kind, stored, piece.decoded, where)

    def _place(self, chunk: Chunk) -> tuple[int, int]:
        """The number of a chunk's batch, and its offset in that."""
        if chunk.blob_index < self._known:
            return chunk.context, chunk.within
        return self._informed(chunk.blob_index).places.get(chunk.position, (-1, 0))

    def _informed(self, index: int) -> _Information:
        found = self._information.get(index)
        if found is not None:
            return found
        record, where = self._blobs[index].record, f"blob {self._blobs[index].record.blob_id}"
        if self._blobs[index].meta:
            header, array = read_blob_meta(self._blobs[index].meta, where)
        else:
            data = self._backend.read(record.blob_id, *chunk_info_range(record))
            header, content = read_chunk_info(data, record)
            array = memoryview(content)
        contexts = batch_contexts(array, header, where)
        frames = bool(record.features & BlobFeature.SEPARATE)
        places = {}
        if index >= self._known:
            places = {
                row.position: (row.context, row.within)
                for row in chunk_rows(array, header, where)
                if row.flags & _BATCH
            }
        found = _Information(contexts, Batches(contexts, record.compressor, frames=frames), places)
        self._information[index] = found
        return found

    def _where(self, chunk: Chunk) -> str:
        return f"blob {self._blobs[chunk.blob_index].record.blob_id} chunk {chunk.position}"
