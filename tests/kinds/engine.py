"""An image read without any transport, over a backend that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from fs.backend.directory import DirectoryBackend
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.image.tree import Image, map_bootstrap
from tests.cache.engine import Counting


@dataclass
class Opened:
    image: Image
    backend: Counting
    store: CacheStore

    async def content(self, *names: bytes) -> bytes:
        """All of the file at this path."""
        nid = self.image.root
        for name in names:
            found = self.image.lookup(nid, name)
            assert found is not None, name
            nid = found
        size = self.image.inode(nid).size
        return bytes(await self.image.read(nid, 0, size)) if size else b""


@asynccontextmanager
async def opened(
    bootstrap: Path, blobs: Path, cache: Path, *, amplify: int = 0
) -> AsyncIterator[Opened]:
    """Blobs come from directory `blobs`, nothing is fetched but what is asked for."""
    backend = Counting(DirectoryBackend(str(blobs)))
    async with trio.open_nursery() as nursery:
        store = CacheStore(str(cache), nursery, amplify=amplify)
        image = Image(map_bootstrap(str(bootstrap)), store, Fetcher(backend, outage_deadline=5.0))
        image.read_ahead = image.read_ahead.__class__(0)
        try:
            yield Opened(image, backend, store)
            await image.close()
        finally:
            nursery.cancel_scope.cancel()
    store.close()
    backend.inner.close()
