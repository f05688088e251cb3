"""A cache over a counting backend, inside of a test's own trio run."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from fs.backend.directory import DirectoryBackend
from fs.cache.blob import BlobCache
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.format.chunktable import ChunkTable
from fs.image.tree import map_bootstrap
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE


@dataclass
class Counting:
    """Reads from a directory; `before` runs in the reading thread, before each."""

    inner: DirectoryBackend
    before: Callable[[], None] = lambda: None
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def read(self, blob: str, offset: int, length: int) -> bytes:
        self.ranges.append((offset, length))
        self.before()
        return self.inner.read(blob, offset, length)


@dataclass
class Engine:
    cache: BlobCache
    backend: Counting
    fetcher: Fetcher
    nursery: trio.Nursery
    store: CacheStore


@asynccontextmanager
async def engine(
    image: BuiltImage,
    directory: Path,
    *,
    amplify: int = 0,
    deadline: float = 5.0,
    table: Callable[[], ChunkTable] | None = None,
    limit: int | None = None,
    grace: float = 10.0,
) -> AsyncIterator[Engine]:
    """Opened and closed as a daemon does it."""
    backend = Counting(DirectoryBackend(str(image.blobs)))
    bootstrap = map_bootstrap(str(image.bootstrap))
    async with trio.open_nursery() as nursery:
        store = CacheStore(str(directory), nursery, amplify=amplify, limit=limit, grace=grace)
        fetcher = Fetcher(backend, outage_deadline=deadline)
        cache = await store.open(
            bootstrap.blobs[0],
            bootstrap.digester,
            table or (lambda: bootstrap.chunk_table(0)),
            fetcher,
        )
        yield Engine(cache, backend, fetcher, nursery, store)
        nursery.cancel_scope.cancel()
    store.close()
    backend.inner.close()


def gate() -> tuple[threading.Event, Callable[[], None]]:
    """An event, and a function that waits for it (as a backend's `before`)."""
    event = threading.Event()

    def wait() -> None:
        assert event.wait(PATIENCE)

    return event, wait
