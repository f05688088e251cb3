"""Where the chunks of a blob lie: a table of them, by the chunk information of the blob.

The bootstrap's chunk table says what a chunk must hash to and where it lies in the decoded
blob; of chunks that share pieces, only the blob's own chunk information says in which piece
one is stored. That information need not be trusted: a wrong one gives bytes without their digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fs.format.blobmeta import BlobMetaHeader, chunk_rows
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.buffer import Buffer
from fs.format.chunkinfo import IN_A_PIECE
from fs.format.chunkrow import DIGEST_SIZE, ChunkRow
from fs.format.chunktable import ChunkTable, Place
from fs.format.contexts import MAX_PIECE, batch_contexts, dictionaries, zran_contexts
from fs.format.errors import FormatError
from fs.format.pieces import Batches, Pieces, Slices


def chunk_table_from_meta(
    array: Buffer, header: BlobMetaHeader, blob: BlobRecord, digests: Buffer | None = None
) -> ChunkTable:
    """The chunks of `blob` from its uncompressed chunk information.

    `digests` is the blob's digest array, 32 bytes a chunk; without it rows have none.
    """
    where = f"blob {blob.blob_id[:12]}: chunk information"
    rows = chunk_rows(array, header, where)
    if digests is not None:
        if len(digests) != header.ci_entries * DIGEST_SIZE:
            raise FormatError(f"{len(digests)} bytes of digests", where)
        rows = _with_digests(rows, bytes(digests))
    return ChunkTable(rows, blob, where)


def _with_digests(rows: Iterable[ChunkRow], digests: bytes) -> Iterator[ChunkRow]:
    for row in rows:
        start = row.position * DIGEST_SIZE
        yield row._replace(digest=digests[start : start + DIGEST_SIZE])


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
    return ChunkTable.placed(table, _places(table, pieces, array, header, blob, where), pieces)


def _places(
    table: ChunkTable,
    pieces: Pieces,
    array: Buffer,
    header: BlobMetaHeader,
    blob: BlobRecord,
    where: str,
) -> Iterator[Place]:
    begun: dict[int, int] = {}
    left: dict[int, int] = {}
    if max(table.positions, default=-1) >= header.ci_entries:
        raise FormatError(f"chunk {max(table.positions)} of {header.ci_entries}", where)
    # Only those that this image uses: the blob may have, or claim to have, many more.
    for row, entry in enumerate(chunk_rows(array, header, where, table.positions)):
        size = entry.uncompressed_size
        if (entry.uncompressed_offset, size) != (
            table.uncompressed_offsets[row],
            table.uncompressed_sizes[row],
        ):
            raise FormatError(f"chunk {entry.position} is not where the bootstrap has it", where)
        if entry.flags & IN_A_PIECE:
            found = _in_piece(entry, pieces, blob, where)
            piece = found.context
            start = begun.setdefault(piece, found.compressed_offset)
            left[piece] = left.get(piece, pieces.size(piece)) - size
            if start != found.compressed_offset or left[piece] < 0:
                raise FormatError(f"chunks of piece {piece} contradict each other", where)
            yield found
        elif blob.features & BlobFeature.ZRAN or not table.compressed_sizes[row]:
            raise FormatError(f"chunk {entry.position} is in no piece", where)
        else:
            yield Place(
                table.compressed_offsets[row], table.compressed_sizes[row], table.flags[row]
            )


def _in_piece(entry: ChunkRow, pieces: Pieces, blob: BlobRecord, where: str) -> Place:
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
    return Place(start, length, entry.flags, context, entry.within)
