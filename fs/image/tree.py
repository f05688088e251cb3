"""The read-only tree of one image: its bootstrap for names, the caches for bytes.

Speaks nids and bytes, never the protocol of a transport. Keeps no state about
callers, so any transport can go and another take its place.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import trio

from fs.cache.blob import BlobCache, Data
from fs.cache.fetch import Fetcher
from fs.cache.readahead import ReadAhead
from fs.cache.store import CacheStore
from fs.cache.tarball import record_of
from fs.cache.whole import bootstrap_key, count_here, layer_key
from fs.format.blobtable import STARTUP_FEATURES, WHOLE_FEATURES, BlobFeature, BlobRecord
from fs.format.bootstrap import Bootstrap, DirEntry, Extent, Inode
from fs.format.chunkplaces import placed
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, FormatError, NotFoundError, VerifyError
from fs.format.pieces import WITH_PIECES
from fs.format.tree import HOLE
from fs.format.versions import open_bootstrap

#: Bootstraps that are mapped now.
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class Image:
    """One image. `store` holds its caches and `fetcher` fills them.

    `layer` is the sha256 of the layer that the bootstrap was verified with, if there is one.
    """

    def __init__(
        self, bootstrap: Bootstrap, store: CacheStore, fetcher: Fetcher, layer: str | None = None
    ) -> None:
        self.bootstrap = bootstrap
        self._layer = layer
        self._store = store
        self._fetcher = fetcher
        self._blobs: dict[int, BlobCache] = {}
        self._opening = trio.Lock()
        #: What the last read that failed said.
        self.last_error: str | None = None
        self.read_ahead = ReadAhead()
        #: Told of each read before it is served: nid, or index of a flat blob, offset, length.
        self.on_read: Callable[[int, int, int], None] | None = None
        self.on_flat: Callable[[int, int, int], None] | None = None

    @property
    def root(self) -> int:
        return self.bootstrap.root

    @property
    def fixed(self) -> bool:
        """Names never come or go."""
        return True

    @property
    def inode_count(self) -> int:
        return self.bootstrap.inode_count

    def key(self) -> str:
        """A name that only bootstraps of the same bytes have. May read all of it; any thread."""
        return layer_key(self._layer) if self._layer else bootstrap_key(self.bootstrap.name)

    @property
    def data_size(self) -> int:
        """Bytes of all its blobs, decoded."""
        return sum(blob.uncompressed_size for blob in self.bootstrap.blobs)

    def inode(self, nid: int) -> Inode:
        return self.bootstrap.inode(nid)

    def lookup(self, nid: int, name: bytes) -> int | None:
        """The nid under `name` in directory `nid`; None if it has no such name."""
        return self.bootstrap.lookup(nid, name)

    def entries(self, nid: int, start: int) -> Iterator[DirEntry]:
        return self.bootstrap.entries(nid, start)

    def readlink(self, nid: int) -> bytes:
        return self.bootstrap.readlink(nid)

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        return self.bootstrap.xattrs(nid)

    async def read(self, nid: int, offset: int, length: int) -> Data:
        """The bytes of a regular file, fewer only at its end."""
        if self.on_read is not None:
            self.on_read(nid, offset, length)
        extents = self.bootstrap.extents(nid, offset, length)
        widen = True
        if sum([extent.length for extent in extents]) == length:
            start, end, widen = self.read_ahead.read(nid, offset, length)
            if start < end:
                self._fetch_ahead(self.bootstrap.extents(nid, start, end - start))
        if len(extents) == 1:
            return await self._read_extent(extents[0], widen)
        return b"".join([await self._read_extent(extent, widen) for extent in extents])

    def read_now(self, nid: int, offset: int, length: int, buffer: memoryview) -> Data | None:
        """What `read` returns, if memory has it, in the beginning of `buffer`.

        None, and nothing is noted, when it would have to be waited for.
        """
        extents = self.bootstrap.extents(nid, offset, length)
        if len(extents) != 1:
            return None if extents else b""
        [extent] = extents
        cache = self._blobs.get(extent.blob_index)
        if cache is None:
            return None
        try:
            data = cache.read_now(extent.blob_offset, extent.length, buffer)
        except Failure:
            return None  # `read` comes to the same, and notes it
        if data is not None:
            if self.on_read is not None:
                self.on_read(nid, offset, length)
            if extent.length == length:
                start, end, _ = self.read_ahead.read(nid, offset, length)
                if start < end:
                    self._fetch_ahead(self.bootstrap.extents(nid, start, end - start))
        return data

    def _fetch_ahead(self, extents: list[Extent]) -> None:
        for extent in extents:
            cache = self._blobs.get(extent.blob_index)
            if cache is not None:
                cache.ahead(extent.blob_offset, extent.blob_offset + extent.length)

    async def _read_extent(self, extent: Extent, widen: bool) -> Data:
        if extent.blob_index == HOLE:
            return bytes(extent.length)
        try:
            cache = self._blobs.get(extent.blob_index) or await self.blob(extent.blob_index)
            return await cache.read(extent.blob_offset, extent.length, widen=widen)
        except Failure as error:
            self.last_error = error.message
            if not isinstance(error, NotFoundError):
                raise
            # Names are found by lookup; here the file exists and its promised bytes do not.
            raise VerifyError(error.message) from error

    async def read_flat(self, index: int, offset: int, length: int) -> Data:
        """Exactly `length` bytes of the decoded blob `index` as one flat file."""
        if self.on_flat is not None:
            self.on_flat(index, offset, length)
        cache = self._blobs.get(index) or await self.blob(index)
        start, end, _ = self.read_ahead.read(-1 - index, offset, length, loose=False)
        if start < end:
            cache.ahead(start, end)
        return await cache.read_flat(offset, length)

    async def blob(self, index: int) -> BlobCache:
        """The cache of one blob, opened once."""
        async with self._opening:
            if index not in self._blobs:
                self._blobs[index] = await self._open_blob(index)
            return self._blobs[index]

    def opened(self, index: int) -> BlobCache | None:
        """The cache of a blob, if it has been opened."""
        return self._blobs.get(index)

    def blob_record(self, index: int) -> BlobRecord:
        """What the cache's files of a blob are by: of a tar file, its pieces are the chunks."""
        blob = self.bootstrap.blobs[index]
        return record_of(blob) if blob.features & WHOLE_FEATURES else blob

    def data_path(self, index: int) -> str:
        """Where the decoded bytes of a blob are looked for on local disk."""
        return self._store.data_path(self.bootstrap.blobs[index])

    async def _open_blob(self, index: int) -> BlobCache:
        record = self.bootstrap.blobs[index]
        if record.features & BlobFeature.ENCRYPTED:
            raise FormatError("encrypted blobs are not supported", f"blob {record.blob_id}")
        make_table: Callable[[], ChunkTable] = partial(self.bootstrap.chunk_table, index)
        if record.features & WITH_PIECES:
            make_table = await self._find_pieces(record, make_table)
        digester = self.bootstrap.digester
        opened = await self._store.open(record, digester, make_table, self._fetcher)
        unmap_pages()  # of the chunk records, which have become columns
        return opened

    async def _find_pieces(
        self, record: BlobRecord, make_table: Callable[[], ChunkTable]
    ) -> Callable[[], ChunkTable]:
        """What makes the table of a blob whose chunks share pieces."""
        beside = os.path.dirname(self.bootstrap.path)
        found = await self._store.chunk_information(record, self._fetcher, beside)
        where = f"blob {record.blob_id}"
        return lambda: placed(make_table(), found.array, found.header, record, where)

    async def startup_blobs(self) -> list[BlobCache]:
        """What was made for the start: wanted as a whole, before any file."""
        return [
            await self.blob(index)
            for index, record in enumerate(self.bootstrap.blobs)
            if record.features & STARTUP_FEATURES
        ]

    async def prefetch_plan(self) -> AsyncIterator[tuple[BlobCache, list[int]]]:
        """The chunks that the image asks to be read first, blob by blob, file by file.

        A blob is opened when its turn comes: its chunks may be many. Images whose table names
        the root ask for all of themselves, which is no start-up set: that entry is passed over.
        """
        wanted: dict[int, list[Extent]] = {}
        for nid in self.bootstrap.prefetch:
            if nid == self.bootstrap.root:
                continue
            for file in self._files_below(nid):
                for extent in self.bootstrap.extents(file.nid, 0, file.size):
                    if extent.blob_index != HOLE:
                        wanted.setdefault(extent.blob_index, []).append(extent)
                await trio.lowlevel.checkpoint()
        for index, extents in wanted.items():
            cache = await self.blob(index)
            rows: dict[int, None] = {}
            for extent in extents:
                end = extent.blob_offset + extent.length
                rows.update(dict.fromkeys(cache.table.rows_between(extent.blob_offset, end)))
            yield cache, list(rows)

    def _files_below(self, nid: int) -> Iterator[Inode]:
        """Regular files at or below `nid` in order; every inode once, so that loops end."""
        seen: set[int] = set()
        pending = [nid]
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            inode = self.bootstrap.inode(current)
            if _is_regular(inode):
                yield inode
            elif _is_directory(inode):
                below = [entry.nid for entry in self.bootstrap.entries(current)]
                pending.extend(reversed(below))

    def opened_blobs(self) -> list[BlobCache]:
        """The caches of the blobs that were needed so far."""
        return list(self._blobs.values())

    async def all_blobs(self) -> list[BlobCache]:
        """The caches of all blobs, opened."""
        return [await self.blob(index) for index in range(len(self.bootstrap.blobs))]

    def is_local(self) -> bool:
        """Whether every chunk of every blob is here, as far as blobs were opened to know."""
        return len(self._blobs) == len(self.bootstrap.blobs) and all(
            cache.is_whole() for cache in self._blobs.values()
        )

    async def settle(self) -> bool:
        """Make durable what is whole; whether that is everything, so that no server is needed."""
        for cache in await self.all_blobs():
            await trio.to_thread.run_sync(cache.settle)
        return self.is_local()

    async def close(self) -> None:
        """Give the caches back. Nobody may read any more."""
        async with self._opening:
            for cache in self._blobs.values():
                await self._store.release(cache)
            self._blobs.clear()

    def status(self) -> dict[str, Any]:
        """Counts of all blobs; of what was not opened yet, as far as its files tell."""
        indexes = range(len(self.bootstrap.blobs))
        unopened = [self.blob_record(index) for index in indexes if index not in self._blobs]
        opened = self.opened_blobs()
        hits = sum(cache.hits for cache in opened)
        reads = sum(cache.reads for cache in opened)
        counts = [cache.counts() for cache in opened]
        blobs = [
            {"blob": cache.blob.blob_id} | count
            for cache, count in zip(opened, counts, strict=True)
        ]
        return {
            "reads": reads,
            "hit_rate": hits / reads if reads else None,
            "chunks": sum(count["chunks"] for count in counts)
            + sum(blob.chunk_count for blob in unopened),
            "cached_chunks": sum(count["cached"] for count in counts)
            + sum(count_here(self.data_path(blob.index), blob) for blob in unopened),
            "blobs_opened": blobs,
            "inodes": self.bootstrap.inode_count,
            "blobs": len(self.bootstrap.blobs),
            "local": self.is_local(),
        }


def map_bootstrap(path: str) -> Bootstrap:
    """Open the bootstrap in a file, which must not change as long as the image is open."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError("empty file", path)
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _mappings.add(mapping)
            bootstrap = open_bootstrap(mapping, path)
            bootstrap.path = path
            return bootstrap
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise FormatError(str(error.strerror), path) from error


def unmap_pages() -> None:
    """Take the pages of all bootstraps out of our address space; the kernel keeps them cached.

    A walk of many images would else count all of their metadata as this process's memory.
    """
    for mapping in list(_mappings):
        mapping.madvise(mmap.MADV_DONTNEED)


def _is_regular(inode: Inode) -> bool:
    return inode.mode & 0o170000 == 0o100000


def _is_directory(inode: Inode) -> bool:
    return inode.mode & 0o170000 == 0o040000
