"""Blobs whose chunks share pieces: the records, and what a writer makes of them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs.format import blobmeta, codec
from fs.format.blobfile import BlobOptions, build_trailer
from fs.format.blobtable import BlobFeature, Compressor, Digester
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import (
    BatchContext,
    ZranContext,
    batch_contexts,
    dictionaries,
    pack_slices,
    zran_contexts,
)
from fs.format.errors import FormatError
from fs.format.tree import Chunk

IN_BATCH = ChunkFlag.COMPRESSED | ChunkFlag.BATCH


def chunk_of_batch(position: int, data: bytes, batch: int, offset: int, within: int) -> Chunk:
    digest = codec.digest(Digester.BLAKE3, data)
    where = 4096 * position
    return Chunk(
        digest, 0, position, offset, 0, where, len(data), IN_BATCH, context=batch, within=within
    )


def test_a_blob_with_batches_describes_them() -> None:
    contents = [b"one" * 100, b"two" * 200, b"three" * 300]
    stored = [codec.compress(Compressor.ZSTD, contents[0] + contents[1]), contents[2]]
    batches = [BatchContext(len(stored[0]), 900), BatchContext(1500, 1500)]
    chunks = [
        chunk_of_batch(0, contents[0], 0, 0, 0),
        chunk_of_batch(1, contents[1], 0, 0, 300),
        chunk_of_batch(2, contents[2], 1, len(stored[0]), 0),
    ]
    data = b"".join(stored)
    trailer = build_trailer(chunks, len(data), hashlib.sha256(data), BlobOptions(), batches=batches)
    record = trailer.record
    assert record.features & BlobFeature.BATCH
    record.check("batches")
    start = record.ci_offset - len(data)
    size = record.ci_compressed_size + blobmeta.HEADER_SIZE
    header, array = blobmeta.read_chunk_info(trailer.data[start : start + size], record)
    assert list(batch_contexts(array, header, "batches")) == batches
    rows = list(blobmeta.chunk_rows(array, header, "batches"))
    assert [(row.context, row.within, row.compressed_offset) for row in rows] == [
        (0, 0, 0),
        (0, 300, 0),
        (1, 0, len(stored[0])),
    ]
    assert {row.flags for row in rows} == {IN_BATCH}
    cached_header, cached_array = blobmeta.read_blob_meta(trailer.blob_meta, "meta")
    assert (cached_header, bytes(cached_array)) == (header, array)


def test_a_chunk_of_a_batch_needs_chunk_information_v2() -> None:
    chunk = chunk_of_batch(0, b"data", 0, 0, 0)
    with pytest.raises(FormatError, match="v2"):
        build_trailer([chunk], 4, hashlib.sha256(b"data"), BlobOptions())


slices = st.builds(
    ZranContext,
    *[st.integers(0, (1 << 64) - 1)] * 2,
    st.just(0),
    *[st.integers(0, (1 << 32) - 1)] * 2,
    st.just(0),
    st.integers(0, 255),
    st.integers(0, 7),
)


@given(st.lists(st.tuples(slices, st.binary(max_size=50)), max_size=8))
def test_slices_find_their_dictionaries(given_slices: list[tuple[ZranContext, bytes]]) -> None:
    contexts = [context for context, _ in given_slices]
    array = pack_slices(contexts, [dictionary for _, dictionary in given_slices])
    count = len(contexts)
    header = blobmeta.BlobMetaHeader(
        BlobFeature.ZRAN, 0, 0, 0, len(array), len(array), 0, len(array), count
    )
    found = zran_contexts(array, header, "slices")
    content = dictionaries(array, header)
    for context, (given_context, dictionary) in zip(found, given_slices, strict=True):
        start = context.dict_offset
        assert content[start : start + context.dict_size] == dictionary
        assert context._replace(dict_offset=0, dict_size=0) == given_context
