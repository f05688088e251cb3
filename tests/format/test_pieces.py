"""Pieces that hold several chunks: whatever contexts and data say, right bytes or a FormatError."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from fs.format import blobmeta, codec, metaentries
from fs.format.blobtable import BlobFeature, BlobRecord, Compressor
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunkplaces import placed
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.contexts import (
    BatchContext,
    ZranContext,
    pack_batches,
    pack_slices,
)
from fs.format.errors import FormatError
from fs.format.inflate import inflate

ZRAN = BlobFeature.ALIGNED | BlobFeature.ZRAN | BlobFeature.CHUNK_INFO_V2 | BlobFeature.SEPARATE
BATCH = BlobFeature.ALIGNED | BlobFeature.BATCH | BlobFeature.CHUNK_INFO_V2


def text(seed: int, size: int) -> bytes:
    """Content that refers back, so that blocks need their dictionary."""
    draw = random.Random(seed)
    words = [bytes(draw.choices(b"abcdefgh", k=draw.randint(3, 9))) for _ in range(200)]
    return b" ".join(draw.choices(words, k=size // 4))[:size]


# Restart points


class BitWriter:
    """Deflate blocks of stored and fixed-code kinds, at any bit."""

    def __init__(self) -> None:
        self.value = self.length = 0

    def put(self, value: int, bits: int) -> None:
        self.value |= value << self.length
        self.length += bits

    def fixed_block(self, data: bytes, *, last: bool = False) -> None:
        """Literals with the fixed codes; below 144 they have 8 bits."""
        self.put(last, 1)
        self.put(1, 2)
        for byte in data:
            assert byte < 144
            self.put(int(f"{byte + 0x30:08b}"[::-1], 2), 8)
        self.put(0, 7)

    def copy_block(self, distance_code: int, extra: int, extra_bits: int) -> None:
        """A block that copies 10 bytes from behind: length code 264, a distance code."""
        self.put(0, 1)
        self.put(1, 2)
        self.put(int(f"{264 - 256:07b}"[::-1], 2), 7)
        self.put(int(f"{distance_code:05b}"[::-1], 2), 5)
        self.put(extra, extra_bits)
        self.put(0, 7)

    def bytes(self) -> bytes:
        return self.value.to_bytes(-(-self.length // 8), "little")


@pytest.mark.parametrize("length", range(1, 9))
def test_a_slice_may_begin_at_any_bit(length: int) -> None:
    """Blocks of 10 and 8n bits in front shift where the next one begins, and it refers back."""
    stream = BitWriter()
    before = b""
    for _ in range(length):
        stream.fixed_block(b"0123456789ABCDEF")
        before += b"0123456789ABCDEF"
    start = stream.length
    stream.copy_block(7, 3, 2)  # distances 13 to 16: here 16
    stream.fixed_block(b"end", last=True)
    whole = stream.bytes()
    content = zlib.decompress(whole, -15)
    assert content.startswith(before)
    rest = content[len(before) :]
    bits = -start % 8
    offset = -(-start // 8)
    byte = whole[offset - 1] if bits else 0
    for size in range(1, len(rest) + 1):
        assert inflate(whole[offset:], size, before, byte, bits, "slice") == rest[:size]
    with pytest.raises(FormatError, match="expected"):
        inflate(whole[offset:], len(rest) + 1, before, byte, bits, "slice")


def test_a_slice_goes_on_through_members_of_the_file() -> None:
    parts = [text(seed, 5000) for seed in range(4)]
    members = b"".join(zlib.compress(part, wbits=31) for part in parts)
    content = b"".join(parts)
    assert inflate(members[10:], len(content), b"", 0, 0, "members") == content
    with pytest.raises(FormatError):
        inflate(members[10:-20], len(content), b"", 0, 0, "members")


def test_many_tiny_members_cost_what_they_have_in_bytes() -> None:
    """What is behind a member is never copied as a whole: 100,000 times 2 MB here."""
    members = zlib.compress(b"a", wbits=-15) + bytes(8) + zlib.compress(b"", wbits=31) * 100_000
    fed = 0

    class Counting:
        def __init__(self, stream: Any) -> None:  # noqa: ANN401 - it has no name
            self.stream = stream

        def decompress(self, data: memoryview, size: int) -> bytes:
            nonlocal fed
            fed += len(data)
            return bytes(self.stream.decompress(data, size))

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of its own
            return getattr(self.stream, name)

    make = isal_zlib.decompressobj
    with (
        mock.patch.object(isal_zlib, "decompressobj", lambda **how: Counting(make(**how))),
        pytest.raises(FormatError, match="holds 1 bytes"),
    ):
        inflate(members, 1000, b"", 0, 0, "members")
    assert len(members) <= fed < 2 << 30


@given(st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 255), st.integers(0, 7),
       st.integers(0, 1 << 24))  # fmt: skip
def test_any_bytes_inflate_or_are_refused(
    data: bytes, dictionary: bytes, byte: int, bits: int, size: int
) -> None:
    with suppress(FormatError):
        assert len(inflate(data, size, dictionary, byte, bits, "fuzzed")) == size


def test_a_bomb_takes_no_more_than_the_record_says() -> None:
    bomb = zlib.compress(bytes(200 << 20), 9, wbits=-15)
    tracemalloc.start()
    assert inflate(bomb, 1 << 20, b"", 0, 0, "bomb") == bytes(1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@given(st.binary(max_size=200), st.integers(0, 1 << 16))
def test_any_bytes_are_frames_or_refused(data: bytes, size: int) -> None:
    with suppress(FormatError):
        assert len(codec.decompress_frames(data, size)) == size


def test_frames_follow_each_other() -> None:
    parts = [text(seed, 3000) for seed in range(3)]
    skipped = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    stored = skipped.join(zstandard.compress(part) for part in parts) + skipped
    content = b"".join(parts)
    assert codec.decompress_frames(stored, len(content)) == content
    assert codec.decompress_frames(stored, 4000) == content[:4000]
    with pytest.raises(FormatError, match=f"hold {len(content)} bytes"):
        codec.decompress_frames(stored, len(content) + 1)


# Placing chunks in pieces


def table_of(sizes: Sequence[int], blob: BlobRecord) -> ChunkTable:
    """As the bootstrap has it: no places in the stored blob."""
    rows = []
    offset = 0
    for position, size in enumerate(sizes):
        digest = hashlib.sha256(b"%d" % position).digest()
        rows.append(ChunkRow(position, 0, 0, offset, size, 1, digest))
        offset += -(-size // 4096) * 4096
    return ChunkTable(rows, blob, "test")


def record_of(sizes: Sequence[int], features: int) -> BlobRecord:
    end = sum(-(-size // 4096) * 4096 for size in sizes)
    return BlobRecord(
        "0" * 64,
        chunk_count=len(sizes),
        compressor=Compressor.GZIP if features & BlobFeature.ZRAN else Compressor.ZSTD,
        features=features,
        compressed_size=1 << 30,
        uncompressed_size=end,
    )


def array_of(table: ChunkTable, flag: int, places: Iterable[tuple[int, int]], rest: bytes) -> bytes:
    rows = [
        table.row(number)._replace(flags=1 | flag, context=context, within=within)
        for number, (context, within) in enumerate(places)
    ]
    return metaentries.pack_v2(rows) + rest


def header_of(array: bytes, count: int, features: int, contexts: int) -> blobmeta.BlobMetaHeader:
    start = 24 * count
    size = len(array) - start
    return blobmeta.BlobMetaHeader(
        features, 0, count, 0, len(array), len(array), start, size, contexts
    )


def test_rows_take_the_ranges_of_their_pieces() -> None:
    sizes = [100, 200, 300]
    blob = record_of(sizes, BATCH)
    table = table_of(sizes, blob)
    contexts = pack_batches([BatchContext(50, 300), BatchContext(60, 300)])
    places = [(0, 0), (0, 100), (1, 0)]
    array = array_of(table, ChunkFlag.BATCH, places, contexts)
    found = placed(table, array, header_of(array, 3, BATCH, 2), blob, "test")
    assert list(found.compressed_sizes) == [50, 50, 60]
    assert [list(found.mates(found.piece_of(row))) for row in range(3)] == [[0, 1], [0, 1], [2]]
    assert found.digests == table.digests


@pytest.mark.parametrize(
    ("context", "place", "said"),
    [
        (BatchContext(50, 99), (0, 0), "impossible"),
        (BatchContext(50, 100), (0, 1), "impossible"),
        (BatchContext(50, 100), (1, 0), "piece 1 of 1"),
        (BatchContext(0, 100), (0, 0), "impossible"),
        (BatchContext(50, (16 << 20) + 1), (0, 0), "impossible"),
        (BatchContext((1 << 30) + 1, 100), (0, 0), "impossible"),
    ],
)
def test_pieces_that_cannot_be(context: BatchContext, place: tuple[int, int], said: str) -> None:
    blob = record_of([100], BATCH)
    table = table_of([100], blob)
    array = array_of(table, ChunkFlag.BATCH, [place], pack_batches([context]))
    with pytest.raises(FormatError, match=said):
        placed(table, array, header_of(array, 1, BATCH, 1), blob, "test")


@pytest.mark.parametrize(
    ("places", "ends"),
    [
        pytest.param([(0, 0), (0, 0)], (0, 0), id="they share bytes of the piece"),
        pytest.param([(0, 0), (0, 100)], (0, 1 << 29), id="they store it at two places"),
    ],
)
def test_chunks_of_a_piece_that_contradict_each_other(
    places: list[tuple[int, int]], ends: tuple[int, int]
) -> None:
    blob = record_of([100, 100], BATCH)
    table = table_of([100, 100], blob)
    rows = [
        table.row(number)._replace(
            flags=1 | ChunkFlag.BATCH, context=context, within=within, compressed_offset=end
        )
        for number, ((context, within), end) in enumerate(zip(places, ends, strict=True))
    ]
    size = 150 if ends == (0, 0) else 200
    array = metaentries.pack_v2(rows) + pack_batches([BatchContext(50, size)])
    with pytest.raises(FormatError, match="contradict"):
        placed(table, array, header_of(array, 2, BATCH, 1), blob, "test")


@settings(deadline=None)
@given(st.data())
def test_any_chunk_information_places_chunks_or_is_refused(data: st.DataObject) -> None:
    """One array that is right, with some bytes changed; then every piece is decoded."""
    features = data.draw(st.sampled_from([ZRAN, BATCH]))
    sizes = [3000, 5000, 100]
    blob = record_of(sizes, features)
    table = table_of(sizes, blob)
    if features & BlobFeature.ZRAN:
        slices = [
            ZranContext(10, 0, 0, 400, 8000, 0, 0, 3),
            ZranContext(20, 9, 0, 90, 100, 0, 7, 0),
        ]
        rest, flag = pack_slices(slices, [b"dictionary", b""]), ChunkFlag.ZRAN
    else:
        rest, flag = pack_batches([BatchContext(400, 8000), BatchContext(90, 100)]), ChunkFlag.BATCH
    array = bytearray(array_of(table, flag, [(0, 0), (0, 3000), (1, 0)], rest))
    for at in data.draw(st.lists(st.integers(0, len(array) - 1), max_size=6)):
        array[at] = data.draw(st.integers(0, 255))
    header = header_of(bytes(array), 3, features, data.draw(st.sampled_from([2, 2, 1, 3, 1 << 31])))
    with suppress(FormatError):
        found = placed(table, bytes(array), header, blob, "fuzzed")
        assert found.pieces is not None
        assert found.digests == table.digests
        for row in range(len(found)):
            context = found.contexts[row]
            if context < 0:
                continue
            with suppress(FormatError):
                content = found.pieces.decode(context, memoryview(text(row, 500)), "fuzzed")
                assert len(content) == found.pieces.size(context)


def test_chunk_information_headers_are_checked() -> None:
    blob = record_of([100], BATCH)
    table = table_of([100], blob)
    contexts = pack_batches([BatchContext(50, 100)])
    array = array_of(table, ChunkFlag.BATCH, [(0, 0)], contexts)
    header = header_of(array, 1, BATCH, 1)
    for wrong, said in (
        (header._replace(ci_entries=2), "chunks"),
        (header._replace(features=BATCH & ~BlobFeature.CHUNK_INFO_V2), "v1"),
        (header._replace(contexts_offset=1 << 40), "past the end"),
    ):
        with pytest.raises(FormatError, match=said):
            placed(table, array, wrong, blob, "test")
