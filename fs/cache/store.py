"""The caches of one daemon: a directory of blob files, opened as blobs are first read.

A directory that cannot be used (full, read-only, no descriptor left) costs speed, never a
read: the blob is then served from memory, and the files are tried again now and then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import trio

from fs.backend.blobs import checked_name
from fs.cache import tarball
from fs.cache.blob import BlobCache
from fs.cache.claims import AS_A_WHOLE
from fs.cache.fetch import Fetching
from fs.cache.files import BlobFiles
from fs.cache.flight import Flights
from fs.cache.held import Held, Room
from fs.cache.index import ContentIndex
from fs.cache.metadata import ChunkInformation, chunk_information
from fs.cache.quota import Quota
from fs.format.blobtable import WHOLE_FEATURES, BlobRecord
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, StorageError
from fs.owndir import make_own

log = logging.getLogger(__name__)

#: Seconds until files that could not be opened are tried again, each time twice as many.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 60.0


class CacheStore:
    """`nursery` outlives every read: fetches live in it. `directory` is made if missing.

    `limit` is what the directory may take on disk in bytes, `grace` how many seconds
    after its last read nothing is evicted.
    """

    def __init__(
        self,
        directory: str,
        nursery: trio.Nursery,
        *,
        amplify: int = 128 << 10,
        limit: int | None = None,
        grace: float = 10.0,
    ) -> None:
        self._directory = directory
        self._nursery = nursery
        self._amplify = amplify
        self._caches: list[BlobCache] = []
        self._wholes: dict[BlobCache, tarball.WholeFile] = {}
        self._flights: WeakValueDictionary[str, Flights] = WeakValueDictionary()
        self._index = ContentIndex(directory)
        self._room = Room()
        self._quota: Quota | None = None
        if limit is not None:
            self._quota = Quota(directory, limit, nursery, self._index, grace=grace)

    async def open(
        self,
        blob: BlobRecord,
        digester: int,
        make_table: Callable[[], ChunkTable],
        fetcher: Fetching,
    ) -> BlobCache:
        """The cache of one blob; `make_table` runs in a thread."""
        if blob.features & WHOLE_FEATURES:
            blob, digester = tarball.record_of(blob), AS_A_WHOLE
            make_table = partial(tarball.table_of, blob)
        table = await trio.to_thread.run_sync(make_table)
        make_files = partial(self._make_files, blob, table, digester)
        files = await trio.to_thread.run_sync(make_files)
        flights = Flights()
        if files is not None:
            flights = self._flights.setdefault(files.data_path, flights)
        whole: tarball.WholeFile | None = None
        if digester == AS_A_WHOLE:
            fetcher = whole = tarball.WholeFile(blob, fetcher, files, self._quota, self._nursery)
        cache = BlobCache(
            blob,
            table,
            fetcher,
            files,
            self._nursery,
            digester=digester,
            amplify=self._amplify,
            index=None if files is None or whole else self._index,
            quota=self._quota,
            flights=flights,
            held=Held(self._room),
        )
        self._caches.append(cache)
        if whole is not None:
            self._wholes[cache] = whole
        elif files is None:
            self._nursery.start_soon(self._find_files, cache, make_files)
        return cache

    async def _find_files(
        self, cache: BlobCache, make_files: Callable[[], BlobFiles | None]
    ) -> None:
        """Give `cache` its files as soon as that can be."""
        pause = _FIRST_PAUSE
        while cache in self._caches:
            await trio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
            files = await trio.to_thread.run_sync(make_files)
            if files is None:
                continue
            if cache in self._caches:
                flights = self._flights.setdefault(files.data_path, Flights())
                cache.adopt(files, self._index, flights)
            else:  # it went meanwhile
                files.close()
            return

    async def chunk_information(
        self, blob: BlobRecord, fetcher: Fetching, beside: str
    ) -> ChunkInformation:
        """See `metadata.chunk_information`; `beside` is the bootstrap's directory."""
        directory = await trio.to_thread.run_sync(self._own_directory)
        return await chunk_information(blob, fetcher, beside, directory)

    def _own_directory(self) -> str | None:
        try:
            make_own(self._directory)
        except Failure as error:
            log.warning("%s; no chunk information is kept", error)
            return None
        return self._directory

    def _make_files(self, blob: BlobRecord, table: ChunkTable, digester: int) -> BlobFiles | None:
        name = checked_name(blob.blob_id)
        try:
            make_own(self._directory)
            return BlobFiles(self._directory, name, blob, table, digester)
        except Failure as error:
            log.warning("%s; blob %s is served without local files", error, name)
            return None

    def data_path(self, blob: BlobRecord) -> str:
        """Where the decoded bytes of a blob are kept, unless another table has taken that name."""
        return os.path.join(self._directory, checked_name(blob.blob_id) + ".blob.data")

    def status(self) -> list[dict[str, Any]]:
        return [{"blob": cache.blob.blob_id} | cache.counts() for cache in self._caches]

    async def release(self, cache: BlobCache) -> None:
        """One user of `cache` has gone; it is closed when what is under way for it has ended."""
        self._caches.remove(cache)
        await cache.idle()
        self._close_whole(cache)
        try:
            await trio.to_thread.run_sync(cache.close)
        except StorageError as error:
            log.warning("%s", error)

    def _close_whole(self, cache: BlobCache) -> None:
        whole = self._wholes.pop(cache, None)
        if whole is not None:
            whole.close()

    def close(self, *, lasting: bool = True) -> None:
        """Close every blob, written back if that is to last. Nothing may be in flight any more."""
        for cache in self._caches:
            self._close_whole(cache)
            try:
                cache.close(lasting=lasting)
            except StorageError as error:
                log.warning("%s", error)
        self._caches.clear()
        self._index.close()
