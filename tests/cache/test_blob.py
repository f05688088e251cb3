"""Reads of a cached blob: right bytes, few requests, errors for those who wait only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from fs.format.blobtable import BlobRecord
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, FormatError, UnreachableError, VerifyError
from tests.cache.engine import engine, gate
from tests.image.build import BuiltImage

_CHUNK = 64 << 10


def _content(image: BuiltImage) -> bytes:
    return (image.bootstrap.parent.parent / "source" / "big").read_bytes()


def test_any_range_reads_right(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        content = _content(image)
        async with engine(image, tmp_path) as made:
            for offset, length in ((0, 1), (_CHUNK - 1, 2), (100, 5 * _CHUNK), (0, 20 * _CHUNK)):
                got = await made.cache.read(offset, length)
                assert bytes(got) == content[offset : offset + length]
            assert sum(length for _, length in made.backend.ranges) == 20 * _CHUNK

    trio.run(main)


def test_adjacent_missing_chunks_are_one_request(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path, amplify=4 * _CHUNK) as made:
            await made.cache.read(0, 1)
            assert made.backend.ranges == [(0, 4 * _CHUNK)]
            await made.cache.read(0, 8 * _CHUNK)
            # A second miss beside the first takes twice as much along.
            assert made.backend.ranges[1:] == [(4 * _CHUNK, 8 * _CHUNK)]
            await made.cache.read(3 * _CHUNK, 2 * _CHUNK)
            assert len(made.backend.ranges) == 2

    trio.run(main)


def test_thousand_readers_make_one_request(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        content = _content(image)
        event, wait = gate()
        outcomes: list[bytes] = []
        async with engine(image, tmp_path) as made:
            made.backend.before = wait

            async def reader() -> None:
                outcomes.append(bytes(await made.cache.read(10, 100)))

            async with trio.open_nursery() as readers:
                for _ in range(1000):
                    readers.start_soon(reader)
                await trio.testing.wait_all_tasks_blocked(0.05)
                event.set()
            assert outcomes == [content[10:110]] * 1000
            assert len(made.backend.ranges) == 1

    trio.run(main)


def test_cancelled_reader_does_not_kill_the_fetch(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        event, wait = gate()
        async with engine(image, tmp_path) as made:
            made.backend.before = wait
            with trio.move_on_after(0.05) as first:
                await made.cache.read(0, 10)
            assert first.cancelled_caught
            event.set()
            assert bytes(await made.cache.read(0, 10)) == _content(image)[:10]
            assert len(made.backend.ranges) == 1

    trio.run(main)


def test_each_waiter_gets_an_error_of_its_own(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        event, wait = gate()
        errors: list[Failure] = []
        async with engine(image, tmp_path, deadline=0.0) as made:

            def fail() -> None:
                wait()
                raise UnreachableError("down")

            made.backend.before = fail

            async def reader() -> None:
                try:
                    await made.cache.read(0, 10)
                except UnreachableError as error:
                    errors.append(error)

            async with trio.open_nursery() as readers:
                for _ in range(3):
                    readers.start_soon(reader)
                await trio.testing.wait_all_tasks_blocked(0.05)
                event.set()
            assert [str(error) for error in errors] == ["down"] * 3
            assert len({id(error) for error in errors}) == 3
            made.backend.before = lambda: None
            assert bytes(await made.cache.read(0, 10)) == _content(image)[:10]

    trio.run(main)


def test_a_bug_in_a_backend_is_an_error_and_no_hang(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path) as made:

            def crash() -> None:
                raise ZeroDivisionError

            made.backend.before = crash
            with pytest.raises(Failure, match="ZeroDivisionError"):
                await made.cache.read(0, 10)

    trio.run(main)


def test_offsets_without_a_chunk_are_refused(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path) as made:
            small = 20 * _CHUNK
            with pytest.raises(FormatError, match="no chunk"):
                await made.cache.read(small, 4096)  # padding follows the small chunk
            with pytest.raises(FormatError, match="no chunk"):
                await made.cache.read(1 << 40, 1)
            assert made.backend.ranges == []

    trio.run(main)


def test_wrong_digest_is_never_served(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path, table=_forged(image, b"\1" * 32)) as made:
            for _ in range(2):
                with pytest.raises(VerifyError, match=r"chunk 0: .* digest"):
                    await made.cache.read(0, 10)
            assert made.cache.counts()["cached"] == 0
            assert bytes(await made.cache.read(_CHUNK, 10)) == _content(image)[_CHUNK:][:10]

    trio.run(main)


def test_image_that_describes_a_blob_otherwise_has_files_of_its_own(
    image: BuiltImage, tmp_path: Path
) -> None:
    """A hostile image whose "chunk 0" is really chunk 1 cannot put bytes under another image."""

    async def main() -> None:
        content = _content(image)
        async with engine(image, tmp_path, table=_swapped(image)) as hostile:
            assert bytes(await hostile.cache.read(0, 10)) == content[_CHUNK : _CHUNK + 10]
        async with engine(image, tmp_path) as made:
            assert bytes(await made.cache.read(0, 10)) == content[:10]
            assert len(made.backend.ranges) == 1

    trio.run(main)


def _rows(image: BuiltImage) -> list[ChunkRow]:
    return [
        ChunkRow(
            chunk.position,
            chunk.compressed_offset,
            chunk.compressed_size,
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
            chunk.flags,
            chunk.digest,
        )
        for chunk in image.chunks
    ]


def _table(rows: list[ChunkRow], record: BlobRecord) -> ChunkTable:
    return ChunkTable(rows, record, "test")


def _forged(image: BuiltImage, digest: bytes) -> Callable[[], ChunkTable]:
    rows = _rows(image)
    rows[0] = rows[0]._replace(digest=digest)
    return lambda: _table(rows, image.record)


def _swapped(image: BuiltImage) -> Callable[[], ChunkTable]:
    rows = _rows(image)
    first, second = rows[0], rows[1]
    rows[0] = first._replace(compressed_offset=second.compressed_offset, digest=second.digest)
    rows[1] = second._replace(compressed_offset=first.compressed_offset, digest=first.digest)
    return lambda: _table(rows, image.record)
