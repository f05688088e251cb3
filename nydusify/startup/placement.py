"""Where the start-up set of a converted image lies: the start-up blob, and what goes into it.

A mount fetches the start-up blob at once, by one or two requests. Its chunks are copies: the
layers' blobs stay as they are, since other images have them too. So a little of the image is
stored twice, and by default only what pays most: chunks from batches of which the start needs
little else. Of such a batch nearly all would be fetched in vain. What is large, or lies
together, is as well fetched where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fs.format.blobfile import BlobOptions
from fs.format.blobtable import BlobFeature
from fs.format.chunkcolumns import LayerChunks
from fs.format.tree import Chunk
from nydusify.blobs.layer_blob import Blob, BlobBuilder
from nydusify.blobs.stored_chunks import Piece, StoredChunks
from nydusify.options import ConvertOptions

#: Of what the layers' blobs take, as much may be stored a second time, by default. Measured, see
#: docs/startup-set.md.
SHARE = 1 / 160
#: A batch of which so much is wanted is fetched where it is.
_DENSE = 0.5
#: What a request for less takes along (bytes).
_NEIGHBOURS = 128 << 10
#: What a blob has to save: it takes a request, and some KiB for what it says of itself.
_WORTH_A_BLOB = 256 << 10


class Copies(NamedTuple):
    """The start-up blob, and its chunks."""

    blob: Blob
    chunks: LayerChunks


def placement(
    chunks: Sequence[Chunk], stored: StoredChunks, options: ConvertOptions, blobs: Sequence[Blob]
) -> Sequence[Chunk]:
    """Those of `chunks` that are to be copied, by the `startup` of `options`.

    `blobs` are the layers'; what others have, those of a dictionary, many an image has fetched.
    """
    if options.startup in ("none", "guess"):
        return ()
    if options.startup == "blob":
        return chunks
    own = [chunk for chunk in chunks if chunk.blob_index < len(blobs)]
    return scattered(own, stored, SHARE * sum(blob.record.compressed_size for blob in blobs))


def scattered(chunks: Sequence[Chunk], stored: StoredChunks, limit: float) -> list[Chunk]:
    """Those of `chunks`, in their order, that are worth a copy: up to `limit` bytes, as stored."""
    by_piece: dict[Piece, list[Chunk]] = {}
    for chunk in chunks:
        by_piece.setdefault(stored.piece(chunk), []).append(chunk)
    chosen: set[Chunk] = set()
    saved = 0.0
    for density, piece, wanted in sorted(_densities(by_piece), key=lambda each: each[:2]):
        cost = sum(chunk.uncompressed_size for chunk in wanted) * piece.stored / piece.decoded
        if density >= _DENSE:
            break
        if cost <= limit:
            limit -= cost
            saved += max(piece.stored, _NEIGHBOURS) - cost
            chosen.update(wanted)
    if saved < _WORTH_A_BLOB:
        return []
    return [chunk for chunk in chunks if chunk in chosen]


def _densities(by_piece: dict[Piece, list[Chunk]]) -> Iterable[tuple[float, Piece, list[Chunk]]]:
    """Of what is fetched for some chunks, how much they are."""
    for piece, wanted in by_piece.items():
        size = sum(chunk.uncompressed_size for chunk in wanted)
        yield size / max(piece.decoded, _NEIGHBOURS), piece, wanted


def copy_chunks(
    chunks: Sequence[Chunk],
    stored: StoredChunks,
    options: ConvertOptions,
    path: Path,
    index: int,
) -> Copies:
    """A start-up blob of `chunks` (at least one), in their order, written to `path`."""
    blob_options = BlobOptions(chunk_size=options.chunk_size, compressor=options.compressor)
    batch_size = min(options.batch_size, options.chunk_size)
    with (
        ThreadPoolExecutor(options.threads, "compress") as pool,
        closing(BlobBuilder(path, blob_options, pool, batch_size=batch_size)) as builder,
    ):
        for chunk in chunks:
            builder.add(stored.read(chunk))
        blob = builder.finish()
        assert blob
    blob.record.index = builder.chunks.blob_index = index
    blob.record.features |= BlobFeature.STARTUP
    return Copies(blob, builder.chunks)


def point_to(copies: LayerChunks, tables: Iterable[LayerChunks]) -> None:
    """Have whoever refers to a chunk through one of `tables` use its copy, if there is one."""
    numbers = {copies.digest(number): number for number in range(len(copies))}
    for table in tables:
        for number, (there, place) in table.elsewhere.items():
            copy = numbers.get(there.digest(place))
            if copy is not None:
                table.elsewhere[number] = copies, copy
        for number in range(len(table)):
            copy = numbers.get(table.digest(number))
            if copy is not None:
                table.elsewhere[number] = copies, copy
