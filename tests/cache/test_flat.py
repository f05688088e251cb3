"""A decoded blob read as one flat file: what an in-kernel file system reads as its device."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from fs.format import codec
from fs.format.chunktable import ChunkTable
from fs.image.tree import map_bootstrap
from tests.cache.engine import engine
from tests.image.build import BuiltImage, build_image, sample_tree


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Chunks of many sizes, most of them shorter than a block."""
    tree = sample_tree(tmp_path_factory.mktemp("tree") / "source")
    return build_image(tree, tmp_path_factory.mktemp("image"), chunk_size=64 << 10)


def _flat(image: BuiltImage, rows: slice = slice(None)) -> bytes:
    """The decoded blob with the chunks `rows`, made by hand."""
    blob = image.blob.read_bytes()
    flat = bytearray(image.record.uncompressed_size)
    for chunk in image.chunks[rows]:
        stored = blob[chunk.compressed_offset :][: chunk.compressed_size]
        compressor = image.record.compressor if chunk.flags & 1 else 0
        data = codec.decompress(compressor, stored, chunk.uncompressed_size)
        start = chunk.uncompressed_offset
        flat[start : start + len(data)] = data
    return bytes(flat)


def _partial(image: BuiltImage, rows: slice) -> ChunkTable:
    """The table of an image that uses only some chunks of the blob."""
    whole = map_bootstrap(str(image.bootstrap)).chunk_table(0)
    chosen = range(len(whole))[rows]
    return ChunkTable([whole.row(i) for i in chosen], image.record, "test")


def _content(path: str) -> bytes:
    return Path(path).read_bytes()


def _scribble(directory: Path, data: bytes) -> None:
    with next(directory.glob("*.blob.data")).open("r+b") as file:
        file.write(data)


def test_any_range_equals_the_decoded_blob(image: BuiltImage, tmp_path: Path) -> None:
    async def run() -> None:
        expected = _flat(image)
        chosen = random.Random(3)
        async with engine(image, tmp_path) as here:
            for _ in range(300):
                offset = chosen.randrange(len(expected))
                length = chosen.choice([1, 4096, 70_000, 1 << 20])
                got = await here.cache.read_flat(offset, length)
                assert bytes(got) == expected[offset : offset + length].ljust(length, b"\0")

    trio.run(run)


def test_one_large_read_is_few_requests(image: BuiltImage, tmp_path: Path) -> None:
    async def run() -> None:
        async with engine(image, tmp_path) as here:
            await here.cache.read_flat(0, image.record.uncompressed_size)
            assert len(here.backend.ranges) <= 3

    trio.run(run)


def test_gap_reads_as_zeros_whatever_lies_there(image: BuiltImage, tmp_path: Path) -> None:
    rows = slice(5, None, 7)

    async def run() -> None:
        expected = _flat(image, rows)
        table = _partial(image, rows)
        async with engine(image, tmp_path, table=lambda: table) as here:
            assert bytes(await here.cache.read_flat(0, len(expected))) == expected
            _scribble(tmp_path, b"secret")  # as another image of the same blob would
            assert bytes(await here.cache.read_flat(0, len(expected))) == expected
            assert here.cache.whole_file() is None

    trio.run(run)


def test_file_is_whole_when_every_chunk_is_there(image: BuiltImage, tmp_path: Path) -> None:
    async def run() -> None:
        expected = _flat(image)
        async with engine(image, tmp_path) as here:
            await here.cache.read_flat(0, len(expected) // 2)
            assert here.cache.whole_file() is None
            await here.cache.read_flat(0, len(expected))
            path = here.cache.whole_file()
            assert path is not None
            assert _content(path) == expected

    trio.run(run)


def test_part_of_a_blob_is_whole_when_nothing_else_is_there(
    image: BuiltImage, tmp_path: Path
) -> None:
    rows = slice(5, None, 7)

    async def run() -> None:
        table = _partial(image, rows)
        async with engine(image, tmp_path, table=lambda: table) as here:
            await here.cache.read_flat(0, image.record.uncompressed_size)
            path = here.cache.whole_file()
            assert path is not None
            assert _content(path) == _flat(image, rows)

    trio.run(run)


def test_without_local_files_it_is_never_whole(image: BuiltImage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def run() -> None:
        expected = _flat(image)
        async with engine(image, tmp_path / "file") as here:
            assert bytes(await here.cache.read_flat(0, len(expected))) == expected
            assert here.cache.whole_file() is None

    trio.run(run)
