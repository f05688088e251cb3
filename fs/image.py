"""The read-only tree of one image: its bootstrap for names, the caches for bytes.

Speaks nids and bytes, never the protocol of a transport. Keeps no state about
callers, so any transport can go and another take its place.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import trio

from fs.cache.blob import BlobCache, Data
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.format.blobtable import BlobFeature
from fs.format.bootstrap import Bootstrap, DirEntry, Extent, Inode, open_bootstrap
from fs.format.errors import FormatError, NotFoundError, VerifyError
from fs.format.tree import HOLE

_UNSUPPORTED = BlobFeature.ZRAN | BlobFeature.BATCH | BlobFeature.ENCRYPTED | BlobFeature.TARFS


class Image:
    """One image. `store` holds its caches and `fetcher` fills them."""

    def __init__(self, bootstrap: Bootstrap, store: CacheStore, fetcher: Fetcher) -> None:
        self.bootstrap = bootstrap
        self._store = store
        self._fetcher = fetcher
        self._blobs: dict[int, BlobCache] = {}
        self._opening = trio.Lock()

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
        extents = self.bootstrap.extents(nid, offset, length)
        if len(extents) == 1:
            return await self._read_extent(extents[0])
        return b"".join([await self._read_extent(extent) for extent in extents])

    async def _read_extent(self, extent: Extent) -> Data:
        if extent.blob_index == HOLE:
            return bytes(extent.length)
        try:
            cache = self._blobs.get(extent.blob_index) or await self.blob(extent.blob_index)
            return await cache.read(extent.blob_offset, extent.length)
        except NotFoundError as error:
            # Names are found by lookup; here the file exists and its promised bytes do not.
            raise VerifyError(error.message) from error

    async def blob(self, index: int) -> BlobCache:
        """The cache of one blob, opened once."""
        async with self._opening:
            if index not in self._blobs:
                self._blobs[index] = await self._open_blob(index)
            return self._blobs[index]

    async def _open_blob(self, index: int) -> BlobCache:
        record = self.bootstrap.blobs[index]
        if record.features & _UNSUPPORTED:
            kind = BlobFeature(record.features & _UNSUPPORTED).name
            raise FormatError(f"{kind} blobs are not supported", f"blob {record.blob_id}")
        return await self._store.open(
            record,
            self.bootstrap.digester,
            lambda: self.bootstrap.chunk_table(index),
            self._fetcher,
        )

    async def prefetch_plan(self) -> AsyncIterator[tuple[BlobCache, range]]:
        """The chunks that the image asks to be read first, file by file.

        Images whose table names the root ask for all of themselves, which is no
        start-up set: that entry is passed over.
        """
        for nid in self.bootstrap.prefetch:
            if nid == self.bootstrap.root:
                continue
            for file in self._files_below(nid):
                for extent in self.bootstrap.extents(file.nid, 0, file.size):
                    if extent.blob_index == HOLE:
                        continue
                    cache = await self.blob(extent.blob_index)
                    end = extent.blob_offset + extent.length
                    yield cache, cache.table.rows_between(extent.blob_offset, end)
                await trio.lowlevel.checkpoint()

    def _files_below(self, nid: int) -> Iterator[Inode]:
        """Regular files at or below `nid`; every inode once, so that loops end."""
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
                pending.extend(entry.nid for entry in self.bootstrap.entries(current))

    def status(self) -> dict[str, Any]:
        return {"inodes": self.bootstrap.inode_count, "blobs": len(self.bootstrap.blobs)}


def map_bootstrap(path: str) -> Bootstrap:
    """Open the bootstrap in a file, which must not change as long as the image is open."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError("empty file", path)
            return open_bootstrap(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), path)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise FormatError(str(error.strerror), path) from error


def _is_regular(inode: Inode) -> bool:
    return inode.mode & 0o170000 == 0o100000


def _is_directory(inode: Inode) -> bool:
    return inode.mode & 0o170000 == 0o040000
