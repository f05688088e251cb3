"""A whole image over a counting backend that may be slow, inside of a test's own trio run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from fs.backend.directory import DirectoryBackend
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.image.tree import Image, map_bootstrap
from tests.cache.engine import Counting
from tests.image.build import BuiltImage


@dataclass
class Opened:
    image: Image
    backend: Counting
    fetcher: Fetcher
    nursery: trio.Nursery

    @property
    def asked(self) -> list[tuple[int, int]]:
        """Every request's (offset, length) so far."""
        return self.backend.ranges

    def nid(self, name: str) -> int:
        found = self.image.lookup(self.image.root, name.encode())
        assert found is not None
        return found


@asynccontextmanager
async def opened(
    built: BuiltImage,
    directory: Path,
    *,
    amplify: int = 0,
    before: Callable[[], None] = lambda: None,
    deadline: float = 5.0,
) -> AsyncIterator[Opened]:
    """Opened and closed as a daemon does it; `before` runs in the thread of each request."""
    backend = Counting(DirectoryBackend(str(built.blobs)), before)
    async with trio.open_nursery() as nursery:
        store = CacheStore(str(directory), nursery, amplify=amplify)
        fetcher = Fetcher(backend, outage_deadline=deadline)
        image = Image(map_bootstrap(str(built.bootstrap)), store, fetcher)
        yield Opened(image, backend, fetcher, nursery)
        nursery.cancel_scope.cancel()
    store.close()
    backend.inner.close()


def delay() -> None:
    """What a distant server takes to answer."""
    time.sleep(0.02)
