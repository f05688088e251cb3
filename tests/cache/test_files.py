"""What stays on disk: nydusd's shapes, crashes, other processes, damage, a full disk."""

from __future__ import annotations

import json
import multiprocessing
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from fs import mounts
from fs.cache import inventory
from fs.format import chunkmap
from tests.cache.engine import engine
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE

_CHUNK = 64 << 10


def _content(image: BuiltImage) -> bytes:
    return (image.bootstrap.parent.parent / "source" / "big").read_bytes()


def _read(image: BuiltImage, directory: Path, length: int) -> int:
    """Open, read [0, length), close; the number of requests it took."""

    async def main() -> int:
        async with engine(image, directory, amplify=3 * _CHUNK) as made:
            assert bytes(await made.cache.read(0, length)) == _content(image)[:length]
            return len(made.backend.ranges)

    return trio.run(main)


def _state(image: BuiltImage, directory: Path) -> dict[str, Any]:
    fields = json.loads((directory / f"{image.record.blob_id}.blob.state").read_text())
    assert isinstance(fields, dict)
    return fields


def _pretend_another_boot(image: BuiltImage, directory: Path) -> None:
    path = directory / f"{image.record.blob_id}.blob.state"
    path.write_text(json.dumps(_state(image, directory) | {"boot": "another"}))


def test_files_have_nydusd_shapes(image: BuiltImage, tmp_path: Path) -> None:
    _read(image, tmp_path, 3 * _CHUNK)
    prefix = tmp_path / f"{image.record.blob_id}.blob"
    data = Path(f"{prefix}.data")
    assert data.stat().st_size == image.record.uncompressed_size
    assert data.stat().st_blocks * 512 < 4 * _CHUNK
    assert data.read_bytes()[: 3 * _CHUNK] == _content(image)[: 3 * _CHUNK]
    bits = Path(f"{prefix}.data.chunk_map").read_bytes()
    chunkmap.unpack_header(bits, image.record.chunk_count, "map")
    assert bits[4096:4098] == b"\xe0\x00"


def test_reopened_cache_needs_no_request(image: BuiltImage, tmp_path: Path) -> None:
    assert _read(image, tmp_path, 3 * _CHUNK) == 1
    assert _state(image, tmp_path)["clean"] is True
    assert _read(image, tmp_path, 3 * _CHUNK) == 0


def test_dead_process_leaves_what_can_be_trusted(image: BuiltImage, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_read_and_die, args=(image, tmp_path)
    )
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 9
    assert _state(image, tmp_path)["clean"] is False
    assert _read(image, tmp_path, 3 * _CHUNK) == 0


def _read_and_die(image: BuiltImage, directory: Path) -> None:
    async def main() -> None:
        async with engine(image, directory) as made:
            await made.cache.read(0, 3 * _CHUNK)
            os._exit(9)

    trio.run(main)


def test_dead_machine_leaves_chunks_that_are_verified_again(
    image: BuiltImage, tmp_path: Path
) -> None:
    test_dead_process_leaves_what_can_be_trusted(image, tmp_path / "trusted")
    directory = tmp_path / "cache"
    process = multiprocessing.get_context("fork").Process(
        target=_read_and_die, args=(image, directory)
    )
    process.start()
    process.join(PATIENCE)
    _pretend_another_boot(image, directory)
    with (directory / f"{image.record.blob_id}.blob.data").open("r+b") as data:
        data.seek(_CHUNK + 5)  # a page of chunk 1 never reached the disk
        data.write(bytes(4096))

    async def main() -> None:
        async with engine(image, directory) as made:
            assert made.cache.counts()["cached"] == 0
            assert bytes(await made.cache.read(0, 3 * _CHUNK)) == _content(image)[: 3 * _CHUNK]
            assert made.backend.ranges == [(_CHUNK, _CHUNK)]
            assert made.cache.counts()["cached"] == 3

    trio.run(main)


def test_clean_end_is_trusted_after_another_boot(image: BuiltImage, tmp_path: Path) -> None:
    _read(image, tmp_path, 3 * _CHUNK)
    _pretend_another_boot(image, tmp_path)
    assert _read(image, tmp_path, 3 * _CHUNK) == 0


def test_files_of_unknown_origin_are_verified(image: BuiltImage, tmp_path: Path) -> None:
    _read(image, tmp_path, 3 * _CHUNK)
    (tmp_path / f"{image.record.blob_id}.blob.state").unlink()
    assert _read(image, tmp_path, 3 * _CHUNK) == 0
    (tmp_path / f"{image.record.blob_id}.blob.state").unlink()
    with (tmp_path / f"{image.record.blob_id}.blob.data").open("r+b") as data:
        data.write(b"wrong")
    assert _read(image, tmp_path, 3 * _CHUNK) == 1


@pytest.mark.parametrize("damage", ["short", "magic", "empty"])
def test_broken_chunk_map_counts_as_none(image: BuiltImage, tmp_path: Path, damage: str) -> None:
    """The bytes are still found by their digests, unless the index is lost as well."""
    _read(image, tmp_path, 3 * _CHUNK)
    path = tmp_path / f"{image.record.blob_id}.blob.data.chunk_map"
    whole = path.read_bytes()
    path.write_bytes({"short": whole[:-1], "magic": b"x" + whole[1:], "empty": b""}[damage])
    assert _read(image, tmp_path, 3 * _CHUNK) == 0
    path.write_bytes(b"")
    for file in tmp_path.glob("content.db*"):
        file.unlink()
    assert _read(image, tmp_path, 3 * _CHUNK) == 1


def test_chunk_that_the_disk_lost_is_fetched_again(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path) as made:
            await made.cache.read(0, _CHUNK)
            await made.cache.read(_CHUNK, _CHUNK)
            os.truncate(tmp_path / f"{image.record.blob_id}.blob.data", _CHUNK)
            got = await made.cache.read(0, 2 * _CHUNK)
            assert bytes(got) == _content(image)[: 2 * _CHUNK]
            assert len(made.backend.ranges) == 3

    trio.run(main)


def test_two_processes_share_a_cache(image: BuiltImage, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_read_all, args=(image, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert _state(image, tmp_path)["clean"] is True
    data = (tmp_path / f"{image.record.blob_id}.blob.data").read_bytes()
    assert data[: 20 * _CHUNK] == _content(image)


def _read_all(image: BuiltImage, directory: Path) -> None:
    async def main() -> None:
        content = _content(image)
        async with engine(image, directory) as made:
            for chunk in range(20):
                offset = chunk * _CHUNK
                assert bytes(await made.cache.read(offset, 9)) == content[offset : offset + 9]

    trio.run(main)


def test_first_to_leave_does_not_call_it_clean(image: BuiltImage, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    go = context.Event()

    def visit() -> None:
        go.wait(PATIENCE)
        _read_all(image, tmp_path)

    guest = context.Process(target=visit)
    guest.start()

    async def main() -> None:
        async with engine(image, tmp_path) as made:
            await made.cache.read(0, 9)
            go.set()
            await trio.to_thread.run_sync(guest.join, 20)
            assert guest.exitcode == 0
            assert _state(image, tmp_path)["clean"] is False
        assert _state(image, tmp_path)["clean"] is True

    trio.run(main)


@pytest.mark.root
def test_full_disk_serves_from_memory(image: BuiltImage, tmp_path: Path) -> None:
    mounts.mount("tmpfs", tmp_path, "tmpfs", 0, "size=300k,mode=700")
    try:

        async def main() -> None:
            content = _content(image)
            async with engine(image, tmp_path) as made:
                for _ in range(2):
                    assert bytes(await made.cache.read(0, 20 * _CHUNK)) == content
                assert 0 < made.cache.counts()["cached"] < 20
                asked = len(made.backend.ranges)
                await made.cache.read(19 * _CHUNK, 10)
                assert len(made.backend.ranges) == asked  # held in memory

        trio.run(main)
    finally:
        mounts.umount(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("size", ["8k", "24k", "60k", "100k"])
@pytest.mark.parametrize("late", [False, True])
def test_disk_without_room_for_any_file(
    image: BuiltImage, tmp_path: Path, size: str, late: bool
) -> None:
    """Map, columns, state and index are not kept either; what was kept before stays right."""
    mounts.mount("tmpfs", tmp_path, "tmpfs", 0, f"size={size if not late else '1m'}")
    try:

        async def main() -> None:
            content = _content(image)
            async with engine(image, tmp_path) as made:
                await made.cache.read(0, _CHUNK)
                if late:
                    with suppress(OSError), open(tmp_path / "filler", "wb") as filler:  # noqa: ASYNC230
                        filler.write(bytes(2 << 20))
                for _ in range(2):
                    assert bytes(await made.cache.read(0, 20 * _CHUNK)) == content

        trio.run(main)
        trio.run(main)
        assert all(verdict.wrong == 0 for verdict in inventory.verify(str(tmp_path)))
    finally:
        mounts.umount(tmp_path)
