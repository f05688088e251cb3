"""What was made for the start comes by one request, however large: in order, bounded, resumed."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from fs.backend.directory import DirectoryBackend
from fs.backend.http import HttpBackend
from fs.cache import prefetch as parts
from fs.cache.blob import BlobCache
from fs.cache.fetch import Fetcher, Ranges
from fs.cache.prefetch import Prefetch
from fs.cache.store import CacheStore
from fs.daemon.order import MountOptions
from fs.format.errors import UnreachableError, VerifyError
from fs.image.source import open_backend
from fs.image.tree import Image, map_bootstrap
from fs.registry.store import StoreOptions
from tests.cache.engine import Counting
from tests.image.build import BuiltImage, build_image
from tests.image.publish import publish
from tests.parts.registry import Registry
from tests.parts.waiting import PATIENCE, eventually
from tests.registry.faulty import Reply, Request, start_faulty

_CHUNK = 128 << 10
_FILES = 128
_SIZE = _FILES * _CHUNK
#: What may have been received and not yet be in the cache.
_UNDER_WAY = parts._LEGS * parts._LEG


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """16 MiB in 128 files of a chunk each."""
    root = tmp_path_factory.mktemp("large")
    source = root / "source"
    source.mkdir()
    for number in range(_FILES):
        (source / f"file-{number:03}").write_bytes(_content(number))
    return build_image(source, root / "image", chunk_size=_CHUNK)


def _content(number: int) -> bytes:
    return random.Random(number).randbytes(_CHUNK)


class _Started(Image):
    """Its first blob was made for the start."""

    async def startup_blobs(self) -> list[BlobCache]:
        return [await self.blob(0)]


@dataclass
class _Made:
    image: _Started
    fetcher: Fetcher
    prefetch: Prefetch
    nursery: trio.Nursery

    async def read(self, number: int) -> bytes:
        nid = self.image.lookup(self.image.root, f"file-{number:03}".encode())
        assert nid is not None
        return bytes(await self.image.read(nid, 0, _CHUNK))

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110 (what it looks at tells nobody)
                await trio.sleep(0.005)

    async def done(self, state: str = "done") -> None:
        await self.until(lambda: self.prefetch.status()["state"] == state)

    async def cached(self) -> int:
        return (await self.image.blob(0)).counts()["cached"]


@asynccontextmanager
async def _begun(built: BuiltImage, directory: Path, backend: Ranges) -> AsyncIterator[_Made]:
    """Over a backend that the caller closes, with the prefetch under way."""
    async with trio.open_nursery() as nursery:
        store = CacheStore(str(directory), nursery, amplify=0)
        fetcher = Fetcher(backend, outage_deadline=5)
        image = _Started(map_bootstrap(str(built.bootstrap)), store, fetcher)
        prefetch = Prefetch(image, "table")
        nursery.start_soon(prefetch.run)
        yield _Made(image, fetcher, prefetch, nursery)
        nursery.cancel_scope.cancel()
    store.close()


@dataclass
class _Slow(Counting):
    """Sends pieces of a chunk, each after `before_piece(offset)`; `sent` counts their bytes."""

    before_piece: Callable[[int], None] = lambda offset: None
    sent: int = 0
    open_answers: int = 0

    def pieces(self, blob: str, offset: int, length: int) -> Iterator[bytes]:
        self.ranges.append((offset, length))
        self.open_answers += 1
        try:
            for at in range(offset, offset + length, _CHUNK):
                self.before_piece(at)
                size = min(_CHUNK, offset + length - at)
                self.sent += size
                yield self.inner.read(blob, at, size)
        finally:
            self.open_answers -= 1


@dataclass
class _Gate:
    """Nothing from `limit` on is sent until `opened`."""

    limit: int
    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def __call__(self, offset: int) -> None:
        if offset >= self.limit:
            self.reached.set()
            assert self.opened.wait(PATIENCE)


def _slow(built: BuiltImage, before_piece: Callable[[int], None]) -> _Slow:
    return _Slow(DirectoryBackend(str(built.blobs)), before_piece=before_piece)


@pytest.mark.registry
def test_one_request_of_a_registry(large: BuiltImage, registry: Registry, tmp_path: Path) -> None:
    source = f"{registry.host}/stream/one:1"
    publish(large, source, StoreOptions(plain_http=True))
    before = len(registry.requests(large.record.blob_id))

    async def main() -> None:
        async with _begun(large, tmp_path, backend) as made:
            await made.done()
            assert await made.cached() == _FILES
            assert [await made.read(number) for number in range(_FILES)] == [
                *map(_content, range(_FILES))
            ]
            assert made.fetcher.requests == made.fetcher.tally.reads == 1
            assert made.fetcher.bytes_fetched == made.fetcher.tally.amount == _SIZE

    with closing(open_backend(source, MountOptions(plain_http=True), {})) as backend:
        trio.run(main)
    answered = [
        each
        for each in registry.requests(large.record.blob_id)[before:]
        if each["http.request.method"] == "GET"
    ]
    assert len(answered) == 1


def test_reader_far_back_overtakes_and_a_near_one_waits(large: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        gate = _Gate(4 * _CHUNK)
        backend = _slow(large, lambda offset: gate(offset) if not overtaking.is_set() else None)
        overtaking = threading.Event()
        async with _begun(large, tmp_path, backend) as made:
            await made.until(gate.reached.is_set)
            with trio.fail_after(PATIENCE):
                assert await made.read(3) == _content(3)
            overtaking.set()
            with trio.fail_after(PATIENCE):
                assert await made.read(_FILES - 2) == _content(_FILES - 2)
            assert backend.ranges == [(0, _SIZE), ((_FILES - 2) * _CHUNK, _CHUNK)]
            with trio.move_on_after(0.05) as near:
                await made.read(8)
            assert near.cancelled_caught
            gate.opened.set()
            await made.done()
            assert await made.cached() == _FILES
            assert len(backend.ranges) == 2
        backend.inner.close()

    trio.run(main)


def test_what_is_received_waits_in_no_more_than_a_few_legs(
    large: BuiltImage, tmp_path: Path
) -> None:
    async def main() -> None:
        most = 0
        caches: list[BlobCache] = []

        def look(_: int) -> None:
            nonlocal most
            stored = sum(cache.counts()["cached"] for cache in caches) * _CHUNK
            most = max(most, backend.sent - stored)

        backend = _slow(large, look)
        async with _begun(large, tmp_path, backend) as made:
            caches.append(await made.image.blob(0))
            await made.done()
        assert backend.sent == _SIZE
        assert most <= _UNDER_WAY < _SIZE
        backend.inner.close()

    trio.run(main)


def test_cut_connection_goes_on_where_it_was(large: BuiltImage, tmp_path: Path) -> None:
    """By HTTP: what was received and was whole legs is asked for no second time."""
    blob, place = large.blob.read_bytes(), f"/{large.record.blob_id}"
    cut_at = 9 * (1 << 20)

    def behave(request: Request) -> Reply:
        assert request.path == place
        first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        body = blob[first : last + 1]
        headers = {
            "Content-Range": f"bytes {first}-{last}/{len(blob)}",
            "Content-Length": str(len(body)),
        }
        broken = first == 0
        return Reply(206, headers, [body[:cut_at] if broken else body], cut=broken)

    async def main(host: str) -> None:
        options = StoreOptions(plain_http=True)
        with closing(HttpBackend(f"http://{host}", options)) as backend:
            async with _begun(large, tmp_path, backend) as made:
                await made.done()
                assert await made.cached() == _FILES
                assert made.fetcher.bytes_fetched == _SIZE

    with start_faulty(behave) as server:
        trio.run(main, server.host)
        ranges = [request.headers["range"] for request in server.requests]
    assert len(ranges) == 2
    again = int(ranges[1].removeprefix("bytes=").split("-")[0])
    assert cut_at - parts._LEG <= again <= cut_at


def test_blob_cut_short_gives_what_it_has(large: BuiltImage, tmp_path: Path) -> None:
    """A server that refuses ranges behind the end is asked leg by leg, and for the last, chunk by
    chunk.
    """
    there = _FILES - 5

    class Short(_Slow):
        def pieces(self, blob: str, offset: int, length: int) -> Iterator[bytes]:
            self.ranges.append((offset, length))
            if offset + length > there * _CHUNK:
                raise VerifyError("ends inside of a chunk")
            yield self.inner.read(blob, offset, length)

    async def main() -> None:
        backend = Short(DirectoryBackend(str(large.blobs)))
        async with _begun(large, tmp_path, backend) as made:
            await made.done("stopped")
            assert await made.cached() == there
            legs = _SIZE // parts._LEG
            assert len(backend.ranges) <= 1 + legs + parts._LEG // _CHUNK
        backend.inner.close()

    trio.run(main)


def test_pause_gives_the_connection_up_and_resume_goes_on(
    large: BuiltImage, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = _Gate(4 * _CHUNK)
        backend = _slow(large, gate)
        async with _begun(large, tmp_path, backend) as made:
            await made.until(gate.reached.is_set)
            made.prefetch.pause()
            gate.opened.set()
            await made.until(lambda: not backend.open_answers)
            assert backend.ranges == [(0, _SIZE)]
            assert backend.sent <= _UNDER_WAY + parts._LEG < _SIZE
            made.prefetch.resume()
            await made.done()
            assert await made.cached() == _FILES
            [(again, length)] = backend.ranges[1:]
            assert again == backend.sent - length
            assert again + length == _SIZE
        backend.inner.close()

    trio.run(main)


def test_outage_stops_it_with_what_came_kept(large: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        def fail(offset: int) -> None:
            if offset >= 5 << 20:
                raise UnreachableError("away")

        backend = _slow(large, fail)
        async with _begun(large, tmp_path, backend) as made:
            made.fetcher._deadline = 0
            await made.done("stopped")
            assert await made.cached() == (5 << 20) // _CHUNK
            backend.before_piece = lambda offset: None
            made.prefetch.resume()
            await made.done()
            assert await made.cached() == _FILES
            assert backend.ranges[-1][0] == 5 << 20
            assert not backend.open_answers
        backend.inner.close()

    trio.run(main)


def test_damaged_chunk_is_asked_for_again_and_passed_over(
    large: BuiltImage, tmp_path: Path
) -> None:
    data = bytearray(large.blob.read_bytes())
    data[20 * _CHUNK] ^= 1
    blobs = tmp_path / "damaged"
    blobs.mkdir()
    (blobs / large.record.blob_id).write_bytes(data)

    async def main() -> None:
        backend = _Slow(DirectoryBackend(str(blobs)))
        async with _begun(large, tmp_path / "cache", backend) as made:
            await made.done("stopped")
            assert await made.cached() == _FILES - 1
            assert (20 * _CHUNK, _CHUNK) in backend.ranges
            assert len(backend.ranges) <= 3
        backend.inner.close()

    trio.run(main)


def test_end_in_the_middle_closes_the_answer(large: BuiltImage, tmp_path: Path) -> None:
    gate = _Gate(4 * _CHUNK)
    backend = _slow(large, gate)

    async def main() -> None:
        async with _begun(large, tmp_path, backend) as made:
            await made.until(gate.reached.is_set)

    trio.run(main)
    gate.opened.set()
    eventually(lambda: not backend.open_answers, "the thread ends its answer")
    backend.inner.close()
