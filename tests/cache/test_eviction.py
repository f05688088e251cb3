"""What is evicted and what never is, while others read, fill, and die."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import trio

from fs.cache import holding as holdings
from fs.cache import quota
from fs.cache.claims import Claims
from fs.cache.eviction import allocated, evict
from fs.cache.holding import open_holding, prefixes
from fs.format.errors import StorageError
from tests.cache.engine import engine, gate
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE

_CHUNK = 64 << 10
_FORK = multiprocessing.get_context("fork")


def _content(image: BuiltImage) -> bytes:
    return (image.bootstrap.parent.parent / "source" / "big").read_bytes()


def _read(image: BuiltImage, directory: Path, offset: int, length: int) -> int:
    """Open, read, close; the number of requests it took."""

    async def main() -> int:
        async with engine(image, directory) as made:
            got = await made.cache.read(offset, length)
            assert bytes(got) == _content(image)[offset : offset + length]
            return len(made.backend.ranges)

    return trio.run(main)


def _age(directory: Path, seconds: int, positions: range) -> None:
    """Make these chunks of the only blob as if they were last read that long ago."""
    (prefix,) = prefixes(str(directory))
    with open_holding(str(directory), prefix) as held:
        assert held.claims is not None
        for position in positions:
            held.claims.used[position] = int(time.time()) - seconds


def test_blob_that_nobody_has_open_goes_whole(image: BuiltImage, tmp_path: Path) -> None:
    _read(image, tmp_path, 0, 20 * _CHUNK)
    assert evict(str(tmp_path), 1 << 20) < 1 << 20
    assert not list(tmp_path.glob(f"{image.record.blob_id}*"))
    assert _read(image, tmp_path, 0, 20 * _CHUNK) == 2


def test_oldest_chunks_of_an_open_blob_go_first(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        content = _content(image)
        async with engine(image, tmp_path) as made:
            await made.cache.read(0, 20 * _CHUNK)
            _age(tmp_path, 100, range(5, 15))
            _age(tmp_path, 200, range(10))
            size = allocated(str(tmp_path))
            left = evict(str(tmp_path), size - 8 * _CHUNK)
            assert size - 9 * _CHUNK <= left <= size - 8 * _CHUNK
            made.backend.ranges.clear()
            at = 10 * _CHUNK
            assert bytes(await made.cache.read(at, 10 * _CHUNK)) == content[at:]
            assert made.backend.ranges == []
            assert bytes(await made.cache.read(0, 20 * _CHUNK)) == content
            assert sum(length for _, length in made.backend.ranges) == 8 * _CHUNK

    trio.run(main)


def test_what_was_just_read_stays(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path) as made:
            await made.cache.read(0, 20 * _CHUNK)
            _age(tmp_path, 100, range(20))
            await made.cache.read(0, 4 * _CHUNK)
            evict(str(tmp_path), 0, grace=10)
            assert made.cache.counts()["cached"] == 4

    trio.run(main)


def test_file_given_to_the_kernel_is_never_holed(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with engine(image, tmp_path) as made:
            table = made.cache.table
            for row in range(len(table)):
                offset, size = table.uncompressed_offsets[row], table.uncompressed_sizes[row]
                await made.cache.read(offset, size)
            path = await trio.to_thread.run_sync(made.cache.whole_file)
            assert path is not None
            device = os.open(path, os.O_RDONLY)
            before = os.pread(device, 1 << 30, 0)
            evict(str(tmp_path), 0)
            assert made.cache.counts()["cached"] == len(table)
        evict(str(tmp_path), 0)
        assert not os.path.exists(path)  # noqa: ASYNC240
        assert os.pread(device, 1 << 30, 0) == before
        os.close(device)

    trio.run(main)


def test_limit_is_kept_by_what_is_written(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        content = _content(image)
        limit = 700 << 10
        async with engine(image, tmp_path, limit=limit, grace=0) as made:
            for _ in range(3):
                for chunk in range(20):
                    at = chunk * _CHUNK
                    assert bytes(await made.cache.read(at, _CHUNK)) == content[at : at + _CHUNK]
                    await trio.sleep(0.01)
                    assert allocated(str(tmp_path)) <= limit + 2 * _CHUNK
            assert made.cache.counts()["cached"] > 4

    trio.run(main)


def test_chunks_pass_through_when_nothing_may_go(image: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        content = _content(image)
        async with engine(image, tmp_path, limit=500 << 10, grace=100) as made:
            for _ in range(2):
                for chunk in range(20):
                    at = chunk * _CHUNK
                    assert bytes(await made.cache.read(at, _CHUNK)) == content[at : at + _CHUNK]
                    await trio.sleep(0.01)
            assert made.cache.counts()["cached"] < 12
            asked = len(made.backend.ranges)
            with pytest.raises(StorageError, match="at its limit"):
                await made.cache.load(range(20))
            assert len(made.backend.ranges) == asked
            await _comes_down(tmp_path, 500 << 10)

    trio.run(main)


def test_what_enters_while_it_is_measured_goes_when_that_ends(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that enters later is needed for it, and no age: all was just read."""
    measured, wait = gate()
    measuring = threading.Event()

    def slowly(directory: str) -> int:
        size = allocated(directory)
        measuring.set()
        wait()
        return size

    monkeypatch.setattr(quota, "allocated", slowly)

    async def main() -> None:
        content, limit = _content(image), 500 << 10
        async with engine(image, tmp_path, limit=limit, grace=1000) as made:
            await made.cache.read(0, _CHUNK)
            await trio.to_thread.run_sync(measuring.wait, PATIENCE)
            assert bytes(await made.cache.read(0, 20 * _CHUNK)) == content[: 20 * _CHUNK]
            assert allocated(str(tmp_path)) > 20 * _CHUNK > limit
            measured.set()
            await _comes_down(tmp_path, limit)
            assert made.cache.counts()["cached"] >= 4, "not more went than had to"
            assert bytes(await made.cache.read(0, 20 * _CHUNK)) == content[: 20 * _CHUNK]
            await _comes_down(tmp_path, limit)

    trio.run(main)


async def _comes_down(directory: Path, limit: int) -> None:
    with trio.fail_after(PATIENCE):
        while allocated(str(directory)) > limit:  # noqa: ASYNC110 (the disk tells nobody)
            await trio.sleep(0.01)


@pytest.mark.parametrize("evictors", [1, 2])
def test_readers_beside_evictors_get_right_bytes(
    image: BuiltImage, tmp_path: Path, evictors: int
) -> None:
    """Two processes read and fill what others take away as fast as they can."""
    _read(image, tmp_path, 0, _CHUNK)
    until = time.monotonic() + 2
    readers = [_FORK.Process(target=_keep_reading, args=(image, tmp_path, until)) for _ in "12"]
    others = [_FORK.Process(target=_keep_evicting, args=(tmp_path, until)) for _ in range(evictors)]
    for process in readers + others:
        process.start()
    for process in readers + others:
        process.join(PATIENCE)
    assert [process.exitcode for process in readers + others] == [0] * (2 + evictors)


def _keep_reading(image: BuiltImage, directory: Path, until: float) -> None:
    drawn = random.Random(os.getpid())

    async def main() -> None:
        content = _content(image)
        async with engine(image, directory) as made:

            async def reader() -> None:
                while time.monotonic() < until:
                    at = drawn.randrange(len(content) - 1)
                    length = min(drawn.choice((1, 4096, 3 * _CHUNK)), len(content) - at)
                    got = await made.cache.read(at, length)
                    assert bytes(got) == content[at : at + length]
                    await trio.lowlevel.checkpoint()

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(reader)

    trio.run(main)


def _keep_evicting(directory: Path, until: float) -> None:
    drawn = random.Random(os.getpid())
    while time.monotonic() < until:
        evict(str(directory), drawn.randrange(1 << 20))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_after_bits(directory: Path) -> None:
    def punch(*_: object) -> None:
        _die()

    holdings._punch = punch  # type: ignore[assignment]
    evict(str(directory), 0)


def _die_amid_bytes(directory: Path) -> None:
    whole = holdings._punch

    def punch(descriptor: int, start: int, end: int) -> None:
        whole(descriptor, start, start + (end - start) // 8192 * 4096)
        _die()

    holdings._punch = punch
    evict(str(directory), 0)


def _die_before_the_last_stamp(directory: Path) -> None:
    setattr(Claims, "end_taking_back", lambda _: _die())  # noqa: B010
    evict(str(directory), 0)


@pytest.mark.parametrize("victim", [_die_after_bits, _die_amid_bytes, _die_before_the_last_stamp])
def test_evictor_that_dies_leaves_no_wrong_byte(
    image: BuiltImage, tmp_path: Path, victim: object
) -> None:
    async def main() -> None:
        content = _content(image)
        async with engine(image, tmp_path) as made:
            await made.cache.read(0, 20 * _CHUNK)
            process = _FORK.Process(target=victim, args=(tmp_path,))  # type: ignore[arg-type]
            process.start()
            await trio.to_thread.run_sync(process.join, 20)
            assert process.exitcode == -signal.SIGKILL
            for _ in range(2):
                assert bytes(await made.cache.read(100, 20 * _CHUNK - 100)) == content[100:]
            # The way without a thread is open again.
            assert made.cache._files is not None
            assert made.cache._files.stamp() % 2 == 0

    trio.run(main)
    assert _read(image, tmp_path, 0, 20 * _CHUNK) == 0
