"""Where layers can be entered, and which slices hold which chunks."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tracemalloc
import zlib
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fs.format.errors import FormatError
from fs.format.inflate import inflate
from nydusify.references.restart_points import FrameDecoder, GzipPoints, Point, RestartPoints
from nydusify.references.slices import slices_of


def content_of(size: int) -> bytes:
    """Half of it compresses well, half not at all."""
    draw = random.Random(7)
    words = [bytes(draw.choices(b"abcdefgh", k=5)) for _ in range(100)]
    content = bytearray()
    while len(content) < size:
        content += b"".join(draw.choices(words, k=20_000)) + draw.randbytes(100_000)
    return bytes(content[:size])


@pytest.mark.parametrize("level", [1, 6, 9])
def test_every_restart_point_of_gzip_can_be_entered(tmp_path: Path, level: int) -> None:
    content = content_of(6 << 20)
    path = tmp_path / "layer"
    path.write_bytes(gzip.compress(content[: 4 << 20], level) + gzip.compress(content[4 << 20 :]))
    stored = path.read_bytes()
    with closing(GzipPoints(path, len(stored))) as points:
        restart = points.found()
        assert (restart.in_size, restart.out_size) == (len(stored), len(content))
        assert len(restart.points) > 10
        assert {point.bits for point in restart.points} - {0}
        for point in restart.points:
            size = min(100_000, len(content) - point.out_offset)
            byte = stored[point.in_offset - 1]
            data = stored[point.in_offset :]
            found = inflate(data, size, point.dictionary, byte, point.bits, "point")
            assert found == content[point.out_offset : point.out_offset + size]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["changed", "empty"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage: str) -> None:
    stored = bytearray(gzip.compress(content_of(2 << 20)))
    if damage == "changed":
        stored[len(stored) // 2] ^= 0xFF
    else:
        stored.clear()
    path = tmp_path / "layer"
    path.write_bytes(stored)
    points = GzipPoints(path, len(stored))
    with closing(points), pytest.raises(FormatError, match="decompress"):
        points.found()


@given(st.lists(st.binary(max_size=3000), max_size=6), st.integers(1, 5000))
def test_frames_are_found_while_they_are_decoded(parts: list[bytes], step: int) -> None:
    skipped = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    frames = [zstandard.compress(part) for part in parts]
    stored = skipped.join(frames)
    decoder = FrameDecoder(io.BytesIO(stored))
    content = b""
    while piece := decoder.read(step):
        content += piece
    assert content == b"".join(parts)
    restart = decoder.found
    assert (restart.in_size, restart.out_size) == (len(stored), len(content))
    assert len(restart.points) == len(parts)
    for point, frame in zip(restart.points, frames, strict=True):
        assert stored[point.in_offset :].startswith(frame)


def test_a_zstd_bomb_is_decoded_by_and_by() -> None:
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    bomb = b"".join(compressor.compress(bytes(64 << 20)) for _ in range(8)) + compressor.flush()
    decoder = FrameDecoder(io.BytesIO(bomb))
    tracemalloc.start()
    size = 0
    while block := decoder.read(1 << 20):
        size += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == decoder.found.out_size == 512 << 20
    assert peak < 256 << 20


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_zstd_error(data: bytes) -> None:
    decoder = FrameDecoder(io.BytesIO(data))
    try:
        while decoder.read(1000):
            pass
    except zstandard.ZstdError:
        return
    assert decoder.found.in_size == len(data)


points = st.lists(st.tuples(st.integers(1, 900_000), st.integers(1, 900_000)), max_size=40)
spans = st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 1 << 20)), max_size=40)


@given(points, spans)
def test_each_chunk_lies_in_one_slice(
    steps: list[tuple[int, int]], drawn: list[tuple[int, int]]
) -> None:
    restart = RestartPoints(10, 0, [Point(10, 0)])
    for in_step, out_step in steps:
        last = restart.points[-1]
        restart.points.append(Point(last.in_offset + in_step, last.out_offset + out_step))
    restart.in_size = restart.points[-1].in_offset + 1000
    restart.out_size = restart.points[-1].out_offset + 1000
    chunks, end = [], 0
    for gap, size in drawn:
        if end + gap + size <= restart.out_size:
            chunks.append((end + gap, end + gap + size))
            end += gap + size
    slices, places = slices_of(restart, chunks, "test")
    for (start, stop), place in zip(chunks, places, strict=True):
        piece = slices[place.slice]
        assert piece.point.out_offset + place.within == start
        assert place.within + stop - start <= piece.out_length
        assert 0 < piece.in_length <= restart.in_size - piece.point.in_offset
        assert piece.out_length <= 6 << 20
    assert [place.slice for place in places] == sorted(place.slice for place in places)
    assert {place.slice for place in places} == set(range(len(slices)))


def test_a_chunk_outside_of_the_content_is_refused() -> None:
    restart = RestartPoints(100, 100, [Point(0, 0)])
    with pytest.raises(FormatError, match="outside"):
        slices_of(restart, [(50, 101)], "test")
    with pytest.raises(FormatError, match="outside"):
        slices_of(RestartPoints(), [(0, 1)], "test")


def test_files_of_other_libraries_are_entered_too(tmp_path: Path) -> None:
    """Stored blocks, a name in the header, many small blocks."""
    content = content_of(3 << 20)
    packer = zlib.compressobj(0, wbits=31)
    stored = packer.compress(content) + packer.flush()
    named = io.BytesIO()
    with gzip.GzipFile("a-name", "wb", fileobj=named) as file:
        for at in range(0, len(content), 10_000):
            file.write(content[at : at + 10_000])
            file.flush()
    for data in (stored, named.getvalue()):
        path = tmp_path / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        with closing(GzipPoints(path, len(data))) as points:
            for point in points.found().points:
                size = min(50_000, len(content) - point.out_offset)
                byte = data[point.in_offset - 1]
                rest = data[point.in_offset :]
                found = inflate(rest, size, point.dictionary, byte, point.bits, "point")
                assert found == content[point.out_offset : point.out_offset + size]
