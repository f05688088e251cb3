"""What the instances of a worker share: images, fetchers and caches, each as long as it is used.

Equal mounts share one image; mounts of one place share its connections, and by
their limits are polite together; caches of one directory are kept together.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from fs.backend.blobs import BlobBackend
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.daemon.order import Order, default_cache_dir
from fs.daemon.trimming import Trimming
from fs.format.errors import Failure
from fs.image.record import ImageRecord
from fs.image.source import Resolved, layer_of, open_backend, resolve
from fs.image.tree import Image, map_bootstrap

Key = tuple[object, ...]

#: Sources that are resolved at a time; each may wait long for its registry.
_RESOLVING = 32


class Origin:
    """Where blobs come from, with the number of images that fetch there."""

    def __init__(
        self, backend: BlobBackend, outage_deadline: float, on_fetched: Callable[[], None]
    ) -> None:
        self.backend = backend
        self.fetcher = Fetcher(backend, outage_deadline=outage_deadline, on_fetched=on_fetched)
        self.users = 0


class Shared:
    """An image with the number of instances that show it."""

    def __init__(self, key: Key, image: Image, origin_key: Key, origin: Origin) -> None:
        self.key = key
        self.image = image
        self.origin_key = origin_key
        self.origin = origin
        self.store: CacheStore
        self.users = 0


class Engine:
    """`nursery` outlives every read. Only the trio thread calls.

    `cache_size` is for orders that do not say.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.cache_size: int | None = None
        self._nursery = nursery
        self._images: dict[Key, Shared] = {}
        self._origins: dict[Key, Origin] = {}
        self._stores: dict[Key, CacheStore] = {}
        self._opening = trio.Lock()
        self._resolvers = trio.CapacityLimiter(_RESOLVING)
        self._trimming = Trimming(nursery)

    @asynccontextmanager
    async def reached(self, order: Order) -> AsyncIterator[None]:
        """Keep the order's origin meanwhile: what resolving has connected to, reads go on with."""
        key = _origin_key(order)
        async with self._opening:
            origin: Origin | None = None
            with suppress(Failure):  # resolving says what is wrong
                origin = await self._origin(key, order)
                origin.users += 1
        try:
            yield
        finally:
            if origin is not None:
                with trio.CancelScope(shield=True):
                    async with self._opening:
                        self._leave(key, origin)

    async def resolve(self, order: Order) -> Resolved:
        """The order's source made local; may wait for the network. Failure."""
        origin = self._origins.get(_origin_key(order))
        return await trio.to_thread.run_sync(
            resolve,
            order.source,
            order.options,
            _cache_dir(order),
            order.environment,
            origin.backend if origin else None,
            limiter=self._resolvers,
            abandon_on_cancel=True,
        )

    async def note_local(self, order: Order) -> None:
        """Remember that nobody need be asked about this image any more."""
        record = ImageRecord(_cache_dir(order), order.source, order.options.platform)
        await trio.to_thread.run_sync(record.mark_local)

    async def open(self, order: Order, resolved: Resolved) -> Shared:
        """The image of an order, with one more user. Failure."""
        origin_key = _origin_key(order)
        limit = order.options.cache_size
        limit = self.cache_size if limit is None else limit
        store_key: Key = (_cache_dir(order), order.options.amplify, limit)
        key: Key = (resolved.bootstrap, origin_key, store_key)
        async with self._opening:
            shared = self._images.get(key)
            if shared is None:
                bootstrap = await trio.to_thread.run_sync(map_bootstrap, resolved.bootstrap)
                origin = await self._origin(origin_key, order)
                store = self._store(store_key)
                layer = layer_of(resolved.bootstrap, _cache_dir(order))
                image = Image(bootstrap, store, origin.fetcher, layer)
                shared = self._images[key] = Shared(key, image, origin_key, origin)
                shared.store = store
                origin.users += 1
            shared.users += 1
            return shared

    async def _origin(self, key: Key, order: Order) -> Origin:
        if key not in self._origins:
            backend = await trio.to_thread.run_sync(
                open_backend, order.source, order.options, order.environment
            )
            deadline = order.options.outage_deadline
            self._origins[key] = Origin(backend, deadline, self._trimming.stir)
        return self._origins[key]

    def _store(self, key: Key) -> CacheStore:
        if key not in self._stores:
            directory, amplify, limit = key
            path = os.path.join(str(directory), "blobs")
            assert isinstance(amplify, int)
            assert limit is None or isinstance(limit, int)
            self._stores[key] = CacheStore(path, self._nursery, amplify=amplify, limit=limit)
        return self._stores[key]

    async def release(self, shared: Shared) -> None:
        """One user less; the last one's image is closed, and its origin with its last image."""
        async with self._opening:
            shared.users -= 1
            if shared.users:
                return
            del self._images[shared.key]
            await shared.image.close()
            self._leave(shared.origin_key, shared.origin)
        self._trimming.stir()

    def _leave(self, key: Key, origin: Origin) -> None:
        origin.users -= 1
        if not origin.users:
            self._origins.pop(key).backend.close()

    def close(self) -> None:
        """Write back and close everything. Nothing may be in flight any more."""
        for store in self._stores.values():
            store.close()
        for origin in self._origins.values():
            with suppress(Failure, OSError):
                origin.backend.close()


def _cache_dir(order: Order) -> str:
    return order.options.cache_dir or default_cache_dir()


def _origin_key(order: Order) -> Key:
    """What decides where blobs come from and how their server is asked."""
    options = order.options
    place = options.blob_dir or options.backend_url or options.backend_config or order.source
    return (
        place,
        options.plain_http,
        options.insecure,
        options.auth_file,
        options.ca_file,
        options.hosts_dir,
        options.backend_type,
        options.outage_deadline,
        *sorted(order.environment.items()),
    )
