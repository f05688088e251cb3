"""Blobs whose chunks share pieces, put together: the bootstrap proves, the blob locates.

The bootstrap's chunk table says what a chunk must hash to and where it lies in the decoded
blob; only the blob's own chunk information says in which piece it is stored. That
information need not be trusted: a wrong one gives bytes without their digest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from fs.format import codec
from fs.format.blobmeta import BlobMetaHeader, chunk_rows
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.buffer import Buffer
from fs.format.chunkinfo import IN_A_PIECE
from fs.format.chunktable import ChunkRow, ChunkTable
from fs.format.contexts import (
    DICTIONARY_SIZE,
    MAX_PIECE,
    BatchContext,
    ZranContext,
    batch_contexts,
    dictionaries,
    zran_contexts,
)
from fs.format.errors import FormatError
from fs.format.inflate import inflate

#: Features of blobs whose chunk information is needed to read them.
WITH_PIECES = BlobFeature.BATCH | BlobFeature.ZRAN


class Pieces(ABC):
    """The pieces of one blob, by the number of their context. Any thread."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def size(self, context: int) -> int:
        """Bytes that the piece decodes to."""

    @abstractmethod
    def stored(self, context: int, row: ChunkRow) -> tuple[int, int]:
        """Offset and length of the piece in the blob, `row` being one of its chunks."""

    @abstractmethod
    def decode(self, context: int, data: memoryview, where: str) -> bytes:
        """The piece, from its stored bytes; FormatError."""


class Batches(Pieces):
    """`frames`: a batch is a range of a layer, of zstd frames that were not made for it."""

    def __init__(
        self, contexts: Sequence[BatchContext], compressor: int, *, frames: bool = False
    ) -> None:
        self._contexts = contexts
        self._compressor = compressor
        self._frames = frames

    def __len__(self) -> int:
        return len(self._contexts)

    def size(self, context: int) -> int:
        return self._contexts[context].uncompressed_size

    def stored(self, context: int, row: ChunkRow) -> tuple[int, int]:
        return row.compressed_offset, self._contexts[context].compressed_size

    def decode(self, context: int, data: memoryview, where: str) -> bytes:
        stored, size = self._contexts[context]
        if self._frames:
            return codec.decompress_frames(data, size, where)
        return codec.decompress(self._compressor if stored != size else 0, data, size, where)


class Slices(Pieces):
    """`content` are all dictionaries; it must stay as it is."""

    def __init__(self, contexts: Sequence[ZranContext], content: memoryview) -> None:
        self._contexts = contexts
        self._content = content

    def __len__(self) -> int:
        return len(self._contexts)

    def size(self, context: int) -> int:
        return self._contexts[context].out_length

    def stored(self, context: int, row: ChunkRow) -> tuple[int, int]:
        piece = self._contexts[context]
        return piece.in_offset, piece.in_length

    def decode(self, context: int, data: memoryview, where: str) -> bytes:
        piece = self._contexts[context]
        end = piece.dict_offset + piece.dict_size
        if piece.dict_size > DICTIONARY_SIZE or end > len(self._content) or piece.bits > 7:
            raise FormatError("no such restart point in a gzip file", where)
        dictionary = self._content[piece.dict_offset : end]
        return inflate(data, piece.out_length, dictionary, piece.byte, piece.bits, where)


def placed(
    table: ChunkTable, array: Buffer, header: BlobMetaHeader, blob: BlobRecord, where: str
) -> ChunkTable:
    """`table` with the pieces that hold its chunks, by the blob's chunk information.

    `array` must stay as it is as long as the table is used. FormatError, at `where`, when
    bootstrap and chunk information contradict each other.
    """
    if header.ci_entries != blob.chunk_count:
        raise FormatError(f"{header.ci_entries} chunks, expected {blob.chunk_count}", where)
    if not header.features & BlobFeature.CHUNK_INFO_V2:
        raise FormatError("chunk information v1 cannot name pieces", where)
    pieces: Pieces
    if blob.features & BlobFeature.ZRAN:
        contexts = zran_contexts(array, header, where)
        pieces = Slices(contexts, dictionaries(array, header))
    else:
        frames = bool(blob.features & BlobFeature.SEPARATE)
        pieces = Batches(batch_contexts(array, header, where), blob.compressor, frames=frames)
    return ChunkTable(_placed(table, pieces, array, header, blob, where), blob, where, pieces)


def _placed(
    table: ChunkTable,
    pieces: Pieces,
    array: Buffer,
    header: BlobMetaHeader,
    blob: BlobRecord,
    where: str,
) -> Iterator[ChunkRow]:
    rows = {position: row for row, position in enumerate(table.positions)}
    begun: dict[int, int] = {}
    left: dict[int, int] = {}
    for entry in chunk_rows(array, header, where):
        row = rows.get(entry.position)
        if row is None:
            continue  # a chunk that this image does not use
        chunk = table.row(row)
        if (entry.uncompressed_offset, entry.uncompressed_size) != (
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
        ):
            raise FormatError(f"chunk {entry.position} is not where the bootstrap has it", where)
        if entry.flags & IN_A_PIECE:
            found = _in_piece(chunk, entry, pieces, blob, where)
            piece = found.context
            start = begun.setdefault(piece, found.compressed_offset)
            left[piece] = left.get(piece, pieces.size(piece)) - found.uncompressed_size
            if start != found.compressed_offset or left[piece] < 0:
                raise FormatError(f"chunks of piece {piece} contradict each other", where)
            yield found
        elif blob.features & BlobFeature.ZRAN or not chunk.compressed_size:
            raise FormatError(f"chunk {entry.position} is in no piece", where)
        else:
            yield chunk


def _in_piece(
    chunk: ChunkRow, entry: ChunkRow, pieces: Pieces, blob: BlobRecord, where: str
) -> ChunkRow:
    context = entry.context
    if context >= len(pieces):
        raise FormatError(f"chunk {entry.position} is in piece {context} of {len(pieces)}", where)
    size = pieces.size(context)
    start, length = pieces.stored(context, entry)
    if (
        entry.within + entry.uncompressed_size > size
        or not 0 < size <= MAX_PIECE
        or not 0 < length <= 2 * MAX_PIECE
        or start + length > blob.compressed_size
    ):
        raise FormatError(
            f"piece {context} of {size} bytes ({length} at {start}) is impossible", where
        )
    return chunk._replace(
        compressed_offset=start,
        compressed_size=length,
        flags=entry.flags,
        context=context,
        within=entry.within,
    )
