"""Blob files, chunk information, chunk tables, chunk maps and the codec."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fs.format import blobfile, blobmeta, chunkmap, codec, metaentries, tarheader
from fs.format.blobfile import BlobOptions
from fs.format.blobtable import (
    MAX_CHUNK_SIZE,
    BlobFeature,
    BlobRecord,
    Compressor,
    Digester,
    unpack_blob,
)
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunkplaces import chunk_table_from_meta
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.contexts import ZranContext, batch_contexts, zran_contexts
from fs.format.errors import FormatError, VerifyError
from fs.format.versions import open_bootstrap
from tests.format.images import BlobBuilder, Image, new_image

COMPRESSORS = list(Compressor)

# Codec


@pytest.mark.parametrize("compressor", COMPRESSORS)
@given(data=st.binary(max_size=5000))
def test_codec_gives_back_what_it_took(compressor: Compressor, data: bytes) -> None:
    packed = codec.compress(compressor, data)
    assert packed == codec.compress(compressor, data)
    assert codec.decompress(compressor, memoryview(packed), len(data)) == data


@given(data=st.binary(max_size=5000))
def test_zstd_with_a_search_of_its_own_gives_back_what_it_took(data: bytes) -> None:
    packed = codec.compress_zstd(data, codec.SHORT_SEARCH)
    assert packed == codec.compress_zstd(data, codec.SHORT_SEARCH)
    assert codec.decompress(Compressor.ZSTD, packed, len(data)) == data


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("size", [0, 1, 999, 1001, 10_000])
def test_codec_refuses_another_size(compressor: Compressor, size: int) -> None:
    packed = codec.compress(compressor, b"data" * 250)
    with pytest.raises(FormatError):
        codec.decompress(compressor, packed, size)


@pytest.mark.parametrize("compressor", COMPRESSORS[1:])
@settings(deadline=None)
@given(data=st.binary(max_size=300), size=st.integers(0, 2000), cut=st.integers(1, 100))
def test_codec_survives_any_bytes(compressor: Compressor, data: bytes, size: int, cut: int) -> None:
    with pytest.raises(FormatError):
        codec.decompress(compressor, data, size + MAX_CHUNK_SIZE // 64)
    packed = codec.compress(compressor, bytes(range(256)) * 4)
    with pytest.raises(FormatError):
        codec.decompress(compressor, packed[:-cut], 1024)


def gzip_bomb(size: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    return stream.compress(bytes(size)) + stream.flush()


def zstd_without_size(size: int) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))


@pytest.mark.parametrize(
    ("compressor", "bomb"),
    [
        (Compressor.ZSTD, zstandard.compress),
        (Compressor.ZSTD, lambda data: zstd_without_size(len(data))),
        (Compressor.GZIP, lambda data: gzip_bomb(len(data))),
        (Compressor.LZ4_BLOCK, lambda data: lz4.block.compress(data, store_size=False)),
    ],
    ids=["zstd", "zstd without size", "gzip", "lz4"],
)
def test_codec_allocates_no_more_than_expected(
    compressor: Compressor, bomb: Callable[[bytes], bytes]
) -> None:
    packed = bomb(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(FormatError):
        codec.decompress(compressor, packed, 4096)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_codec_refuses_a_frame_that_claims_terabytes() -> None:
    # Magic number, an 8-byte content size in one segment, and no more.
    frame = bytes.fromhex("28b52ffd e0") + (1 << 50).to_bytes(8, "little")
    with pytest.raises(FormatError, match="claims"):
        codec.decompress(Compressor.ZSTD, frame, 4096)


def test_digests() -> None:
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert codec.digest(Digester.BLAKE3, b"").hex() == empty
    assert codec.digest(Digester.SHA256, b"abc") == hashlib.sha256(b"abc").digest()
    with pytest.raises(FormatError):
        codec.digest(7, b"")


# Chunk information

offsets = st.integers(0, (1 << 32) - 1).map(lambda block: block << 12)
rows = st.builds(
    ChunkRow,
    st.just(0),
    st.integers(0, (1 << 40) - 1),
    st.integers(1, MAX_CHUNK_SIZE - 1),
    offsets,
    st.integers(1, MAX_CHUNK_SIZE),
    st.just(0),
    st.just(b""),
    crc32=st.just(0),
    context=st.just(-1),
    within=st.just(0),
)


def header_for(array: bytes, count: int, features: int) -> blobmeta.BlobMetaHeader:
    return blobmeta.BlobMetaHeader(features, 0, count, 0, len(array), len(array))


@given(st.lists(rows, max_size=20))
def test_chunk_information_v1_gives_back_its_rows(given_rows: list[ChunkRow]) -> None:
    array = metaentries.pack_v1(given_rows)
    found = list(blobmeta.chunk_rows(array, header_for(array, len(given_rows), 1), "v1"))
    expected = [
        row._replace(position=index, flags=int(row.compressed_size != row.uncompressed_size))
        for index, row in enumerate(given_rows)
    ]
    assert found == expected


@given(st.lists(st.tuples(rows, st.booleans(), st.integers(0, 2**32 - 1)), max_size=20))
def test_chunk_information_v2_gives_back_its_rows(drawn: list[tuple[ChunkRow, bool, int]]) -> None:
    given_rows = [
        row._replace(
            position=index,
            flags=ChunkFlag.HAS_CRC32 | (ChunkFlag.COMPRESSED if compressed else 0),
            crc32=crc32,
        )
        for index, (row, compressed, crc32) in enumerate(drawn)
    ]
    array = metaentries.pack_v2(given_rows)
    header = header_for(array, len(given_rows), BlobFeature.CHUNK_INFO_V2)
    assert list(blobmeta.chunk_rows(array, header, "v2")) == given_rows


def test_contexts_are_records() -> None:
    array = bytes(range(40)) + bytes(40)
    header = blobmeta.BlobMetaHeader(BlobFeature.ZRAN, 0, 0, 0, 80, 80, 0, 80, 2)
    first, second = zran_contexts(array, header, "zran")
    assert first.in_offset == 0x0706050403020100
    assert (first.in_length, first.byte, first.bits) == (0x1B1A1918, 36, 37)
    assert second == ZranContext(0, 0, 0, 0, 0, 0, 0, 0)
    assert batch_contexts(array, header, "batch")[0] == (0x03020100, 0x07060504)
    with pytest.raises(FormatError, match="contexts"):
        zran_contexts(array, header._replace(contexts_count=3), "zran")


@given(st.binary(max_size=64))
def test_chunk_information_header_survives_any_bytes(fields: bytes) -> None:
    magic = (0xB10BB10B).to_bytes(4, "little")
    data = (magic + fields).ljust(4092, b"\0") + magic
    try:
        header = blobmeta.unpack_header(data, "header")
    except FormatError:
        return
    assert header.ci_uncompressed_size <= 1 << 30


# Blob files


def filled(options: BlobOptions) -> BlobBuilder:
    builder = BlobBuilder(options=options)
    noise = random.Random(3)
    for number in range(40):
        builder.add(noise.randbytes(5000) if number % 2 else b"%d" % number * 3000)
    return builder


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("digester", list(Digester))
def test_blob_describes_itself(compressor: Compressor, v2: bool, digester: Digester) -> None:
    options = BlobOptions(4096, compressor, digester, chunk_info_v2=v2)
    builder = filled(options)
    inlined = b"bootstrap" * 100
    trailer = builder.finish(inlined)
    blob = bytes(builder.stored) + trailer.data
    record = trailer.record
    record.check("blob")
    assert record.blob_id == hashlib.sha256(blob).hexdigest()
    assert record.compressed_size == len(blob)
    assert record.uncompressed_size == len(builder.decoded)

    toc = blobfile.read_toc(blob[-record.toc_size :], len(blob), "blob", record.toc_digest)
    parts = {}
    for entry in toc[1:]:
        stored = blob[entry.compressed_offset : entry.compressed_offset + entry.compressed_size]
        parts[entry.name] = blobfile.read_part(entry, stored, "blob")
    data_and_header = blob[: len(builder.stored) + tarheader.SIZE]
    assert toc[0].digest == hashlib.sha256(data_and_header).digest()
    assert parts["image.boot"] == inlined
    assert blobfile.find_bootstrap(blob[-2000:], len(blob), "blob") == toc[-1]

    offset, length = blobmeta.chunk_info_range(record)
    header, array = blobmeta.read_chunk_info(blob[offset : offset + length], record)
    kept_header, kept_array = blobmeta.read_blob_meta(trailer.blob_meta, "file")
    assert (kept_header, bytes(kept_array)) == (header, array)
    table = chunk_table_from_meta(array, header, record, parts["blob.digest"])
    assert len(table) == len(builder.chunks)
    for row in map(table.row, range(len(table))):
        stored = blob[row.compressed_offset : row.compressed_offset + row.compressed_size]
        used = compressor if row.flags & ChunkFlag.COMPRESSED else Compressor.NONE
        data = codec.decompress(used, stored, row.uncompressed_size)
        end = row.uncompressed_offset + row.uncompressed_size
        assert data == builder.decoded[row.uncompressed_offset : end]
        assert codec.digest(digester, data) == row.digest


def test_blob_is_the_same_every_time() -> None:
    first, second = (filled(BlobOptions(4096)).finish() for _ in range(2))
    assert first == second


def test_bootstrap_and_blob_give_the_same_chunk_table() -> None:
    image: Image = new_image()
    image.root.children[b"file"] = image.file(random.Random(5).randbytes(50_000))
    trailer = image.blobs[0].finish()
    header, array = blobmeta.read_blob_meta(trailer.blob_meta, "meta")
    digests = b"".join(chunk.digest for chunk in image.blobs[0].chunks.values())
    from_blob = chunk_table_from_meta(array, header, trailer.record, digests)
    from_bootstrap = open_bootstrap(image.pack(), "image").chunk_table(0)
    assert len(from_blob) == 13
    for index in range(13):
        assert from_blob.row(index) == from_bootstrap.row(index)


def test_legacy_blob_ends_in_its_bootstrap() -> None:
    blob = b"chunks" + b"bootstrap" + tarheader.pack("image.boot", 9)
    entry = blobfile.find_bootstrap(blob[-512:], len(blob), "legacy")
    stored = blob[entry.compressed_offset : entry.compressed_offset + entry.compressed_size]
    assert blobfile.read_part(entry, stored, "legacy") == b"bootstrap"


def test_wrong_digests_are_told() -> None:
    trailer = filled(BlobOptions(4096)).finish()
    size = trailer.record.compressed_size
    with pytest.raises(VerifyError):
        blobfile.read_toc(trailer.data, size, "blob", bytes(32))
    entry = blobfile.read_toc(trailer.data, size, "blob")[-1]
    with pytest.raises(VerifyError):
        blobfile.read_part(entry, bytes(entry.compressed_size), "blob")


@given(st.data())
def test_any_tail_is_read_or_refused(data: st.DataObject) -> None:
    trailer = filled(BlobOptions(4096)).finish(b"boot" * 99)
    tail = bytearray(trailer.data[-trailer.record.toc_size :])
    for _ in range(data.draw(st.integers(0, 5))):
        tail[data.draw(st.integers(0, len(tail) - 1))] = data.draw(st.integers(0, 255))
    tail = tail[data.draw(st.sampled_from([0, 0, 1, 600, len(tail)])) :]
    for read in (blobfile.read_toc, blobfile.find_bootstrap):
        with suppress(FormatError):
            read(tail, trailer.record.compressed_size, "tail")


# Tar headers


@given(st.sampled_from(["image.blob", "blob.meta", "rafs.blob.toc"]), st.integers(0, 2**40))
def test_tar_header_is_what_tar_reads(name: str, size: int) -> None:
    header = tarheader.pack(name, size)
    assert tarheader.unpack(header, "header") == (name, size)
    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (info.name, info.size, info.type) == (name, size, tarfile.REGTYPE)


# Blob records


def test_blob_record_gives_back_its_fields() -> None:
    record = filled(BlobOptions(4096)).finish().record
    assert unpack_blob(record.pack(), "table") == record


@pytest.mark.parametrize(
    "change",
    [
        {"blob_id": "../../etc/passwd"},
        {"blob_id": "A" * 64},
        {"compressor": 9},
        {"digester": 2},
        {"features": 0},
        {"features": 0x8001},
        {"cipher": 1},
        {"chunk_count": 1},
        {"uncompressed_size": 1 << 44},
    ],
)
def test_blob_record_rules(change: dict[str, object]) -> None:
    record = BlobRecord("a" * 64)
    record.check("table")
    for name, value in change.items():
        setattr(record, name, value)
    with pytest.raises(FormatError, match="table: blob 0"):
        record.check("table")


# Chunk tables


def table_of(*given_rows: ChunkRow) -> ChunkTable:
    blob = BlobRecord("a" * 64, chunk_count=9, compressed_size=1000, uncompressed_size=1 << 20)
    return ChunkTable(given_rows, blob, "table")


def chunk_row(
    position: int, start: int, size: int, compressed_offset: int = 0, compressed_size: int = 10
) -> ChunkRow:
    digest = bytes([position]) * 32
    return ChunkRow(position, compressed_offset, compressed_size, start, size, 0, digest)


def test_chunk_table_finds_rows_and_gaps() -> None:
    table = table_of(
        chunk_row(2, 16384, 100),
        chunk_row(0, 0, 4096),
        chunk_row(1, 4096, 10),
        chunk_row(0, 0, 4096),
    )
    assert len(table) == 3
    assert [table.find(at) for at in (0, 4095, 4096, 4105, 4106, 16384, 16483, 16484)] == [
        0, 0, 1, 1, -1, 2, 2, -1,
    ]  # fmt: skip
    assert [table.row(index).position for index in range(3)] == [0, 1, 2]
    assert table.row(2).digest == b"\2" * 32
    between = {
        (0, 1): range(1),
        (4095, 4097): range(2),
        (4106, 16384): range(2, 2),
        (4106, 16385): range(2, 3),
        (0, 1 << 40): range(3),
        (20000, 30000): range(3, 3),
        (5, 5): range(0),
    }
    assert {ends: table.rows_between(*ends) for ends in between} == between


@pytest.mark.parametrize(
    "bad",
    [
        chunk_row(1, 4000, 10),
        chunk_row(1, 0, 4096),
        chunk_row(9, 8192, 10),
        chunk_row(1, 8192, 0),
        chunk_row(1, 8192, 10, compressed_size=0),
        chunk_row(1, 8192, MAX_CHUNK_SIZE + 1),
        chunk_row(1, (1 << 20) - 5, 10),
        chunk_row(1, 8192, 10, compressed_offset=995),
    ],
)
def test_chunk_table_refuses_contradictions(bad: ChunkRow) -> None:
    with pytest.raises(FormatError, match="table: blob 0"):
        table_of(chunk_row(0, 0, 4096), bad)


# Chunk maps


def test_chunk_map_has_the_highest_bit_first() -> None:
    data = chunkmap.new_map(10)
    assert len(data) == chunkmap.file_size(10) == 4096 + 2
    assert data[:16] == b"PAMB\1\0\0\0PAMC\0\0\0\0"
    for position, place in ((0, (4096, 0x80)), (7, (4096, 1)), (8, (4097, 0x80))):
        assert chunkmap.bit(position) == place
    for position in (0, 9):
        offset, mask = chunkmap.bit(position)
        data[offset] |= mask
    assert chunkmap.count_ready(data) == 2
    assert chunkmap.unpack_header(data, 10, "map") == (1, False)


def test_chunk_map_can_say_that_all_is_there() -> None:
    header = chunkmap.ChunkMapHeader(all_ready=True).pack()
    assert chunkmap.unpack_header(header + b"\0", 8, "map").all_ready


@pytest.mark.parametrize("data", [b"", bytes(4097), bytes(4098), b"PAMB\1" + bytes(4092)])
def test_chunk_map_of_other_shape_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="map"):
        chunkmap.unpack_header(data, 8, "map")


def test_trailer_refuses_chunks_out_of_order() -> None:
    builder = filled(BlobOptions(4096))
    chunks = list(builder.chunks.values())
    with pytest.raises(FormatError, match="position"):
        blobfile.build_trailer(chunks[::-1], 10, hashlib.sha256(), BlobOptions(4096))


def test_blob_can_be_streamed_out() -> None:
    """Data and trailer are written one after the other; nothing is filled in later."""
    builder = filled(BlobOptions(4096))
    trailer = builder.finish()
    out = io.BytesIO()
    out.write(builder.stored)
    out.write(trailer.data)
    assert hashlib.sha256(out.getvalue()).hexdigest() == trailer.record.blob_id
