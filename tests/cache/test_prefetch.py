"""What is fetched unasked: in which order, by how many requests, and what stops or outruns it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from fs.cache.blob import BlobCache
from fs.cache.fetch import Urgency
from fs.cache.prefetch import Prefetch, ranges
from fs.format import chunkmap
from fs.format.chunktable import ChunkTable
from fs.format.errors import UnreachableError, UsageError
from fs.image.tree import map_bootstrap
from tests.cache.engine import gate
from tests.cache.imaging import Opened, delay, opened
from tests.image.build import BuiltImage, build_image
from tests.parts.waiting import PATIENCE

_CHUNK = 64 << 10
_FILES = 40
_LIST = (b"file-30", b"file-31", b"file-02", b"file-32", b"file-03", b"file-20")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """40 files of 4 chunks of 64 KiB each; six of them listed, in three places of the blob."""
    root = tmp_path_factory.mktemp("listed")
    source = root / "source"
    source.mkdir()
    for number in range(_FILES):
        content = random.Random(number).randbytes(4 * _CHUNK)
        (source / f"file-{number:02}").write_bytes(content)
    return build_image(source, root / "image", chunk_size=_CHUNK, prefetch=_LIST)


def _table(built: BuiltImage) -> ChunkTable:
    return map_bootstrap(str(built.bootstrap)).chunk_table(0)


def _stored(built: BuiltImage) -> int:
    return sum(_table(built).compressed_sizes)


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 (what it looks at tells nobody)
            await trio.sleep(0.005)


async def _begin(made: Opened, mode: str, bandwidth: int | None = None) -> Prefetch:
    prefetch = Prefetch(made.image, mode, bandwidth)
    made.nursery.start_soon(prefetch.run)
    return prefetch


def test_list_comes_in_its_order_by_one_request_a_place(listed: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        event, wait = gate()
        place = 4 * _CHUNK
        async with opened(listed, tmp_path, before=wait) as made:
            prefetch = await _begin(made, "table")
            await _until(lambda: len(made.asked) == Urgency.PREFETCH.value)
            assert sorted(made.asked) == [(2 * place, 2 * place), (30 * place, 3 * place)]
            event.set()
            await _until(lambda: prefetch.status()["state"] == "done")
            assert made.asked[2:] == [(20 * place, place)]
            assert prefetch.status() | {"chunks": 24, "done": 24, "error": None} == (
                prefetch.status()
            )
            for name in _LIST:
                await made.image.read(made.nid(name.decode()), 0, 4 * _CHUNK)
            assert len(made.asked) == 3
            assert made.image.is_local() is False

    trio.run(main)


def test_first_blob_is_not_kept_waiting_for_the_next(listed: BuiltImage, tmp_path: Path) -> None:
    """The next one's table is looked at when what the first lists is asked for already."""

    async def main() -> None:
        async with opened(listed, tmp_path) as made:

            async def plan() -> AsyncIterator[tuple[BlobCache, list[int]]]:
                cache = await made.image.blob(0)
                yield cache, [4, 5]
                await _until(lambda: made.asked == [(4 * _CHUNK, 2 * _CHUNK)])
                yield cache, [80]

            made.image.prefetch_plan = plan  # type: ignore[method-assign]
            prefetch = await _begin(made, "table")
            await _until(lambda: prefetch.status()["state"] == "done")
            assert made.asked[1:] == [(80 * _CHUNK, _CHUNK)]
            assert prefetch.status()["done"] == prefetch.status()["chunks"] == 3

    trio.run(main)


def test_ranges_fill_small_gaps_keep_the_order_and_the_limit(listed: BuiltImage) -> None:
    table = _table(listed)
    assert ranges(table, [100, 10, 101, 12, 50], 8 << 20) == [
        [100, 101],
        [10, 11, 12],
        [50],
    ]
    assert [len(rows) for rows in ranges(table, range(160), 1 << 20)] == [16] * 10
    assert ranges(table, [], 1 << 20) == []


def test_all_needs_few_requests_and_then_no_server(listed: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(listed, tmp_path, before=delay) as made:
            prefetch = await _begin(made, "all")
            await _until(lambda: prefetch.status()["state"] == "done")
            assert sum(length for _, length in made.asked) == _stored(listed)
            assert len(made.asked) == 7  # three listed places and the four between them
            assert made.image.is_local()
        async with opened(listed, tmp_path, deadline=0.0) as made:

            def fail() -> None:
                raise UnreachableError("no server")

            made.backend.before = fail
            prefetch = await _begin(made, "all")
            await _until(lambda: prefetch.status()["state"] == "done")
            for number in range(_FILES):
                got = await made.image.read(made.nid(f"file-{number:02}"), 0, 4 * _CHUNK)
                assert bytes(got) == random.Random(number).randbytes(4 * _CHUNK)
            assert made.asked == []
            assert made.image.is_local()

    trio.run(main)


def test_whole_blob_is_called_whole_before_the_daemon_ends(
    listed: BuiltImage, tmp_path: Path
) -> None:
    """So that a machine that dies afterwards has nothing to verify or to fetch."""

    async def main() -> None:
        async with opened(listed, tmp_path) as made:
            prefetch = await _begin(made, "all")
            await _until(lambda: prefetch.status()["state"] == "done")
            _assert_called_whole(listed, tmp_path)

    trio.run(main)


def test_all_waits_for_what_readers_are_fetching(listed: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        event, wait = gate()
        async with opened(listed, tmp_path) as made:
            made.backend.before = wait
            cache = await made.image.blob(0)
            rows = range(len(cache.table))
            for number in range(_FILES):
                nid = made.nid(f"file-{number:02}")
                made.nursery.start_soon(made.image.read, nid, 0, 4 * _CHUNK)
            await _until(lambda: cache.missing(rows) == [])
            prefetch = await _begin(made, "all")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert prefetch.status()["state"] == "all"
            event.set()
            await _until(lambda: prefetch.status()["state"] == "done")
            assert made.image.is_local()
            _assert_called_whole(listed, tmp_path)

    trio.run(main)


def _assert_called_whole(listed: BuiltImage, directory: Path) -> None:
    prefix = f"{directory}/{listed.record.blob_id}.blob"
    bits = Path(prefix + ".data.chunk_map").read_bytes()
    assert chunkmap.unpack_header(bits, listed.record.chunk_count, "map").all_ready
    assert json.loads(Path(prefix + ".state").read_text())["clean"] is True


def test_the_list_comes_beside_readers(listed: BuiltImage, tmp_path: Path) -> None:
    """It is what they are about to wait for; what they read is asked for at once all the same."""

    async def main() -> None:
        event, wait = gate()
        async with opened(listed, tmp_path) as made:
            made.backend.before = wait
            made.nursery.start_soon(made.image.read, made.nid("file-39"), 0, 4 * _CHUNK)
            await _until(lambda: len(made.asked) == 1)
            prefetch = await _begin(made, "table")
            await _until(lambda: len(made.asked) == 3)
            made.nursery.start_soon(made.image.read, made.nid("file-20"), 0, 4 * _CHUNK)
            await _until(lambda: len(made.asked) == 4)
            assert made.asked[3] == (20 * 4 * _CHUNK, 4 * _CHUNK)
            assert not prefetch.status()["done"]
            event.set()
            await _until(lambda: prefetch.status()["state"] == "done")
            assert len(made.asked) == 4  # file-20 has come already

    trio.run(main)


def test_readers_go_before_what_nobody_listed(listed: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        event, wait = gate()
        async with opened(listed, tmp_path) as made:
            cache = await made.image.blob(0)
            made.backend.before = wait
            made.nursery.start_soon(made.image.read, made.nid("file-39"), 0, 4 * _CHUNK)
            await _until(lambda: len(made.asked) == 1)
            made.nursery.start_soon(cache.load, range(4))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(made.asked) == 1
            event.set()
            await _until(lambda: len(made.asked) == 2)
            await cache.idle()

    trio.run(main)


def test_pause_and_resume(listed: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(listed, tmp_path) as made:
            prefetch = Prefetch(made.image, "all")
            prefetch.pause()
            made.nursery.start_soon(prefetch.run)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (prefetch.status()["state"], made.asked) == ("paused", [])
            prefetch.resume()
            await _until(lambda: prefetch.status()["state"] == "done")
            assert made.image.is_local()

    trio.run(main)


def test_outage_stops_it_and_resume_goes_on(listed: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(listed, tmp_path, deadline=0.0) as made:
            broken = threading.Event()

            def fail_later() -> None:
                if len(made.asked) > 2:
                    broken.set()
                    raise UnreachableError("registry is away")

            made.backend.before = fail_later
            prefetch = await _begin(made, "all")
            await _until(lambda: prefetch.status()["state"] == "stopped")
            assert prefetch.status()["error"] == "registry is away"
            assert len(made.asked) <= 2 + Urgency.PREFETCH.value
            made.backend.before = lambda: None
            prefetch.resume()
            await _until(lambda: prefetch.status()["state"] == "done")
            assert prefetch.status()["error"] is None
            fetched = sum(length for _, length in made.asked)
            assert fetched - _stored(listed) <= sum(length for _, length in made.asked[2:4])

    trio.run(main)


def test_damaged_chunk_does_not_hold_up_the_others(
    listed: BuiltImage, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blobs = tmp_path_factory.mktemp("damaged")
    data = bytearray(listed.blob.read_bytes())
    data[5 * _CHUNK] ^= 1
    (blobs / listed.record.blob_id).write_bytes(data)
    damaged = BuiltImage(listed.bootstrap, blobs, listed.record, listed.chunks)

    async def main() -> None:
        async with opened(damaged, tmp_path) as made:
            prefetch = await _begin(made, "all")
            await _until(lambda: prefetch.status()["state"] == "stopped")
            assert "digest" in prefetch.status()["error"]
            counts = (await made.image.blob(0)).counts()
            assert counts["cached"] == counts["chunks"] - 1
            assert not made.image.is_local()

    trio.run(main)


def test_rest_is_asked_for_at_the_given_rate(listed: BuiltImage, tmp_path: Path) -> None:
    """By trio's own clock: 10 MiB at 1 MiB a second take about ten of its seconds."""

    async def main() -> None:
        started = trio.current_time()
        async with opened(listed, tmp_path) as made:
            prefetch = Prefetch(made.image, "all", 1 << 20)
            await prefetch.run()
            left = _stored(listed) - len(_LIST) * 4 * _CHUNK
            took = trio.current_time() - started
            assert took > left / (1 << 20) - 2
            assert max(length for _, length in made.asked[3:]) <= 1 << 20

    trio.run(main, clock=trio.testing.MockClock(rate=50))


@pytest.mark.parametrize(("mode", "bandwidth"), [("some", None), ("all", 0)])
def test_nonsense_is_refused(mode: str, bandwidth: int | None) -> None:
    with pytest.raises(UsageError):
        Prefetch(None, mode, bandwidth)  # type: ignore[arg-type]
