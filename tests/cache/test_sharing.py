"""Who shares what: images of one blob, equal chunks of different blobs, contradictions."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from fs.backend.directory import DirectoryBackend
from fs.cache.fetch import Fetcher
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.errors import NotFoundError
from fs.image.tree import map_bootstrap
from tests.cache.engine import Counting, engine, gate
from tests.image.build import BuiltImage, build_image

_CHUNK = 64 << 10


def _content(image: BuiltImage) -> bytes:
    return (image.bootstrap.parent.parent / "source" / "big").read_bytes()


def _rows(image: BuiltImage) -> list[ChunkRow]:
    table = map_bootstrap(str(image.bootstrap)).chunk_table(0)
    return [table.row(row) for row in range(len(table))]


def _of(image: BuiltImage, rows: list[ChunkRow]) -> Callable[[], ChunkTable]:
    return lambda: ChunkTable(rows, image.record, "test")


def _read(
    image: BuiltImage,
    directory: Path,
    offset: int,
    length: int,
    rows: list[ChunkRow] | None = None,
) -> tuple[bytes, int]:
    """What is read in a cache of its own on `directory`, and how many requests it took."""

    async def main() -> tuple[bytes, int]:
        table = None if rows is None else _of(image, rows)
        async with engine(image, directory, table=table) as made:
            return bytes(await made.cache.read(offset, length)), len(made.backend.ranges)

    return trio.run(main)


def test_images_that_use_different_chunks_share_a_blob(image: BuiltImage, tmp_path: Path) -> None:
    content, rows = _content(image), _rows(image)
    first, second = rows[:12], rows[8:]
    assert _read(image, tmp_path, 0, 12 * _CHUNK, first) == (content[: 12 * _CHUNK], 1)
    at = 8 * _CHUNK
    assert _read(image, tmp_path, at, 4 * _CHUNK, second) == (content[at:][: 4 * _CHUNK], 0)
    assert _read(image, tmp_path, at, 12 * _CHUNK, second) == (content[at:], 1)
    assert _read(image, tmp_path, 0, 20 * _CHUNK) == (content, 0)
    assert not list(tmp_path.glob("other-*/*.data"))


def test_images_that_are_open_together_share(image: BuiltImage, tmp_path: Path) -> None:
    rows = _rows(image)

    async def main() -> None:
        content = _content(image)
        async with (
            engine(image, tmp_path, table=_of(image, rows[:15])) as first,
            engine(image, tmp_path, table=_of(image, rows[5:])) as second,
        ):
            assert bytes(await first.cache.read(0, 15 * _CHUNK)) == content[: 15 * _CHUNK]
            at = 5 * _CHUNK
            assert bytes(await second.cache.read(at, 15 * _CHUNK)) == content[at:]
            assert second.backend.ranges == [(15 * _CHUNK, 5 * _CHUNK)]

    trio.run(main)


@pytest.mark.parametrize("fault", ["none", "error", "stall"])
def test_images_wait_for_each_others_requests(
    image: BuiltImage, tmp_path: Path, fault: str
) -> None:
    """But a fault of one's backend is not the other's."""
    rows = _rows(image)

    async def main() -> None:
        content = _content(image)
        event, wait = gate()

        def fail() -> None:
            wait()
            if fault == "error":
                raise NotFoundError("not for you")

        async with engine(image, tmp_path, table=_of(image, rows[:15])) as first:
            bootstrap = map_bootstrap(str(image.bootstrap))
            backend = Counting(DirectoryBackend(str(image.blobs)))
            second = await first.store.open(
                bootstrap.blobs[0], bootstrap.digester, _of(image, rows[5:]), Fetcher(backend)
            )
            first.backend.before = fail
            async with trio.open_nursery() as readers:

                async def read_first() -> None:
                    at = 6 * _CHUNK
                    with suppress(NotFoundError):
                        assert bytes(await first.cache.read(at, 9)) == content[at : at + 9]

                readers.start_soon(read_first)
                await trio.testing.wait_all_tasks_blocked(0.05)

                async def read_second() -> None:
                    at = 5 * _CHUNK
                    assert bytes(await second.read(at, 3 * _CHUNK)) == content[at:][: 3 * _CHUNK]

                readers.start_soon(read_second)
                await trio.sleep(1 if fault == "stall" else 0.05)
                second_has_it = second.counts()["cached"] == 3
                event.set()
            assert second_has_it == (fault == "stall")
            assert len(first.backend.ranges) == 1
            asked = {(5 * _CHUNK, _CHUNK), (7 * _CHUNK, _CHUNK)}
            assert set(backend.ranges) == asked | (
                set() if fault == "none" else {(6 * _CHUNK, _CHUNK)}
            )
        backend.inner.close()

    trio.run(main)


def _forgeries(rows: list[ChunkRow]) -> dict[str, list[ChunkRow]]:
    first, second = rows[0], rows[1]
    swapped = [
        first._replace(compressed_offset=second.compressed_offset, digest=second.digest),
        second._replace(compressed_offset=first.compressed_offset, digest=first.digest),
    ]
    # Chunk 30 (unused otherwise) laid over the first two.
    over = [second._replace(position=30, uncompressed_offset=_CHUNK // 2)]
    moved = [second._replace(position=0, uncompressed_offset=0)]
    return {"swapped": swapped, "overlapping": over, "moved": moved}


@pytest.mark.parametrize("kind", ["swapped", "overlapping", "moved"])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("hostile_first", [False, True])
def test_contradiction_puts_no_bytes_under_another_image(
    image: BuiltImage, tmp_path: Path, kind: str, together: bool, hostile_first: bool
) -> None:
    rows = [row for row in _rows(image) if row.position != 30]
    forged = _forgeries(rows)[kind]
    content = _content(image)

    async def read(made: Callable[[], ChunkTable], offset: int, length: int) -> bytes:
        async with engine(image, tmp_path, table=made) as one:
            return bytes(await one.cache.read(offset, length))

    async def honest() -> None:
        assert await read(_of(image, rows), 0, 20 * _CHUNK) == content

    async def hostile() -> None:
        at = forged[0].uncompressed_offset
        await read(_of(image, forged), at, _CHUNK)
        if together:
            async with engine(image, tmp_path, table=_of(image, forged)) as other:
                await other.cache.read(at, _CHUNK)
                await honest()
                await other.cache.read(at, _CHUNK)

    async def main() -> None:
        for one in (hostile, honest) if hostile_first else (honest, hostile):
            await one()
        await honest()

    trio.run(main)


def test_squatter_does_not_keep_others_from_sharing(image: BuiltImage, tmp_path: Path) -> None:
    rows = _rows(image)
    swapped = _forgeries(rows)["swapped"]
    _read(image, tmp_path, 0, _CHUNK, swapped)
    _read(image, tmp_path, 0, 4 * _CHUNK, rows[:10])
    assert _read(image, tmp_path, 0, 4 * _CHUNK, rows[:5])[1] == 0
    assert len(list(tmp_path.glob("other-*/*.data"))) == 1


def test_two_chunks_of_one_number_are_not_kept(image: BuiltImage, tmp_path: Path) -> None:
    rows = _rows(image)
    rows[1] = rows[1]._replace(position=0)
    assert _read(image, tmp_path, 0, 2 * _CHUNK, rows)[0] == _content(image)[: 2 * _CHUNK]
    assert _read(image, tmp_path, 0, 2 * _CHUNK) == (_content(image)[: 2 * _CHUNK], 1)


@pytest.fixture(scope="module")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> list[BuiltImage]:
    """Two images of one blob each, with 10 equal chunks at different places."""
    common = random.Random(7).randbytes(10 * _CHUNK)
    images = []
    for seed in (1, 2):
        root = tmp_path_factory.mktemp(f"relative-{seed}")
        (root / "source").mkdir()
        own = random.Random(seed + 100).randbytes(seed * _CHUNK)
        (root / "source" / "big").write_bytes(own + common)
        images.append(build_image(root / "source", root / "image", chunk_size=_CHUNK))
    return images


def test_equal_chunks_of_another_blob_are_copied(
    relatives: list[BuiltImage], tmp_path: Path
) -> None:
    first, second = relatives
    whole = _content(first)
    assert _read(first, tmp_path, 0, len(whole)) == (whole, 1)

    async def main() -> None:
        content = _content(second)
        async with engine(second, tmp_path) as made:
            assert bytes(await made.cache.read(0, len(content))) == content
            fetched = sum(length for _, length in made.backend.ranges)
            assert fetched == 2 * _CHUNK
            assert made.cache.counts()["cached"] == len(made.cache.table)

    trio.run(main)


def test_damaged_copy_is_fetched_instead(relatives: list[BuiltImage], tmp_path: Path) -> None:
    first, second = relatives
    _read(first, tmp_path, 0, len(_content(first)))
    with (tmp_path / f"{first.record.blob_id}.blob.data").open("r+b") as data:
        data.seek(_CHUNK)
        data.write(b"?" * _CHUNK)
    content = _content(second)
    assert _read(second, tmp_path, 0, len(content))[0] == content


@pytest.mark.parametrize("damage", [b"", b"no database", b"SQLite format 3\0" + b"\xff" * 8000])
def test_damaged_index_is_done_without(
    relatives: list[BuiltImage], tmp_path: Path, damage: bytes
) -> None:
    first, second = relatives
    _read(first, tmp_path, 0, _CHUNK)
    for file in tmp_path.glob("content.db-*"):
        file.unlink()
    (tmp_path / "content.db").write_bytes(damage)
    content = _content(second)
    assert _read(second, tmp_path, 0, len(content))[0] == content
    assert _read(first, tmp_path, 0, len(_content(first)))[0] == _content(first)
