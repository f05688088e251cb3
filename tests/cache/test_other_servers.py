"""Chunks that one server gives wrong and another gives right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from fs.backend.blobs import BlobBackend
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.daemon.order import MountOptions
from fs.format.errors import Failure, UnreachableError, VerifyError
from fs.image.source import open_backend
from fs.image.tree import map_bootstrap
from fs.registry.retry import RetryPolicy
from fs.registry.store import StoreOptions
from tests.image.build import BuiltImage
from tests.image.publish import publish
from tests.parts.registry import Registry, start_registry
from tests.parts.waiting import eventually

SOURCE = "images.invalid/chunks/mirror:1"


async def read_all(image: BuiltImage, backend: BlobBackend, directory: Path) -> tuple[bytes, int]:
    """The decoded blob through a cache of its own, and how many requests it took."""
    bootstrap = map_bootstrap(str(image.bootstrap))
    size = bootstrap.blobs[0].uncompressed_size
    data: bytes | Failure
    async with trio.open_nursery() as nursery:
        store = CacheStore(str(directory), nursery)
        fetcher = Fetcher(backend)
        cache = await store.open(
            bootstrap.blobs[0], bootstrap.digester, lambda: bootstrap.chunk_table(0), fetcher
        )
        try:
            data = bytes(await cache.read_flat(0, size))
        except Failure as error:
            data = error
        nursery.cancel_scope.cancel()
        store.close()
    if isinstance(data, Failure):
        raise data
    return data, fetcher.requests


@pytest.fixture
def certs_d(registry: Registry, tmp_path: Path) -> Iterator[tuple[Path, Registry]]:
    """A mirror of the session's registry, and the directory that says so."""
    (tmp_path / "mirror").mkdir()
    with start_registry(tmp_path / "mirror", upstream=f"http://{registry.host}") as mirror:
        directory = tmp_path / "certs.d/images.invalid"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]'
        )
        yield directory.parent, mirror


@pytest.mark.registry
def test_chunks_that_a_mirror_has_damaged(
    image: BuiltImage, registry: Registry, certs_d: tuple[Path, Registry], tmp_path: Path
) -> None:
    publish(image, f"{registry.host}/chunks/mirror:1", StoreOptions(plain_http=True))
    directory, mirror = certs_d
    options = MountOptions(hosts_dir=str(directory))
    digest = image.record.blob_id
    with closing(open_backend(SOURCE, options, {})) as backend:
        right, _ = trio.run(read_all, image, backend, tmp_path / "one")
    assert mirror.requests(digest)

    stored = mirror.storage / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"
    size = image.blob.stat().st_size  # a mirror stores a blob after it has passed it on
    eventually(lambda: stored.exists() and stored.stat().st_size == size, "the mirror stores it")
    damaged = bytearray(stored.read_bytes())
    for position in range(1000, len(damaged), 50_000):
        damaged[position] ^= 1
    stored.write_bytes(damaged)
    asked = len(mirror.requests(digest))
    with closing(open_backend(SOURCE, options, {})) as backend:
        assert trio.run(read_all, image, backend, tmp_path / "two")[0] == right
    assert len(mirror.requests(digest)) > asked


class Lying:
    """Gives zeros until it is told so, `times` times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.asked: list[tuple[int, int]] = []

    def read(self, blob: str, offset: int, length: int) -> bytes:
        self.asked.append((offset, length))
        return bytes(length)

    def reject(self, blob: str, offset: int, length: int) -> bool:
        assert (offset, length) in self.asked
        self.left -= 1
        return self.left > 0

    def close(self) -> None: ...


def test_everybody_lies(image: BuiltImage, tmp_path: Path) -> None:
    backend = Lying(3)
    with pytest.raises(VerifyError):
        trio.run(read_all, image, backend, tmp_path)
    assert backend.left <= 0
    assert len(backend.asked) < 50


def test_read_gives_up_even_if_others_succeed(autojump_clock: trio.testing.MockClock) -> None:
    class OneIsBroken:
        def read(self, blob: str, offset: int, length: int) -> bytes:
            if blob == "broken":
                raise UnreachableError("broken")
            return bytes(length)

    async def run() -> float:
        fetcher = Fetcher(OneIsBroken(), outage_deadline=20, backoff=RetryPolicy(longest=1))
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others, fetcher)
            with pytest.raises(UnreachableError):
                await fetcher.fetch("broken", 0, 1)
            nursery.cancel_scope.cancel()
        return trio.current_time() - begun

    async def others(fetcher: Fetcher) -> None:
        while True:
            await fetcher.fetch("good", 0, 1)
            await trio.sleep(0.3)

    # The clock jumps while a slow machine's threads still work: by a third of a second at a time.
    assert 20 <= trio.run(run, clock=autojump_clock) < 40


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.05)
