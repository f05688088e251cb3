"""An image's files and blobs read without a mount, for programs that work on whole images.

The calls block; the engine that answers them (fs/image/tree.py) runs in a thread of its own, so
every byte is verified by its chunk's digest, and is fetched as a mount would fetch it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

import trio

from fs.cache.blob import BlobCache
from fs.cache.fetch import Fetcher, Ranges
from fs.cache.prefetch import ranges
from fs.cache.store import CacheStore
from fs.format.bootstrap import Bootstrap, Extent
from fs.format.errors import StorageError, local_errors
from fs.format.tree import HOLE
from fs.image.tree import Image

T = TypeVar("T")

PIECE = 1 << 20
#: One request of `load` (bytes, as stored).
_REQUEST = 8 << 20
#: How long a server may be out of reach (seconds).
_PATIENCE = 30.0


class Contents:
    """The contents of the files of `bootstrap`. Calls come from one thread at a time."""

    def __init__(self, image: Image, token: trio.lowlevel.TrioToken) -> None:
        self.bootstrap = image.bootstrap
        self._image = image
        self._token = token
        #: Files with the whole of a decoded blob, by its index.
        self._whole: dict[int, int] = {}

    def read(self, nid: int, offset: int, length: int) -> bytes:
        """Bytes of a regular file, fewer only at its end; VerifyError for wrong ones."""
        if self._whole:
            extents = self.bootstrap.extents(nid, offset, length)
            if all(each.blob_index in self._whole or each.blob_index == HOLE for each in extents):
                return b"".join(map(self._read_whole, extents))
        return bytes(self._call(self._image.read, nid, offset, length))

    def pieces(self, nid: int) -> Iterator[bytes | int]:
        """A regular file from front to back; what lies in holes comes as a number of zeros."""
        offset, size = 0, self.bootstrap.inode(nid).size
        while offset < size:
            length = min(PIECE, size - offset)
            extents = self.bootstrap.extents(nid, offset, length)
            if all(extent.blob_index == HOLE for extent in extents):
                yield length
            else:
                yield self.read(nid, offset, length)
            offset += length

    def read_flat(self, index: int, offset: int, length: int) -> bytes:
        """Bytes of the decoded blob `index`; zeros where no chunk is."""
        return bytes(self._call(self._image.read_flat, index, offset, length))

    def load(self) -> None:
        """Fetch all that the files need by few large requests, as far as the disk takes it.

        What is then here as a whole is read without the engine, which verified it.
        """
        self._call(self._load)
        for index, path in self._call(self._whole_files):
            with local_errors(path):
                self._whole[index] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _read_whole(self, extent: Extent) -> bytes:
        if extent.blob_index == HOLE:
            return bytes(extent.length)
        file = self._whole[extent.blob_index]
        with local_errors("decoded blob"):
            data = os.pread(file, extent.length, extent.blob_offset)
        if len(data) != extent.length:
            raise StorageError(f"decoded blob {extent.blob_index} is cut short")
        return data

    async def _whole_files(self) -> list[tuple[int, str]]:
        found = []
        for index, cache in enumerate(await self._image.all_blobs()):
            path = await trio.to_thread.run_sync(cache.whole_file)
            if path is not None:
                found.append((index, path))
        return found

    def end(self, scope: trio.CancelScope) -> None:
        """Let the engine's thread end."""
        for file in self._whole.values():
            os.close(file)
        self._whole.clear()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(scope.cancel)

    async def _load(self) -> None:
        full = False
        for cache in await self._image.all_blobs():
            if full:
                return
            runs = iter(ranges(cache.table, cache.missing(range(len(cache.table))), _REQUEST))
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_load_runs, cache, runs)
                    nursery.start_soon(_load_runs, cache, runs)
            except* StorageError:
                full = True

    def _call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        try:
            return trio.from_thread.run(function, *arguments, trio_token=self._token)
        except ExceptionGroup as group:
            raise _first(group) from None


async def _load_runs(cache: BlobCache, runs: Iterable[list[int]]) -> None:
    for rows in runs:
        await cache.load(rows)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The failure that a nursery wrapped."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def open_contents(bootstrap: Bootstrap, backend: Ranges, directory: str) -> Iterator[Contents]:
    """The image of `bootstrap` with its blobs from `backend`, which stays the caller's.

    Decoded chunks are kept in `directory` as in a cache of mounts, and are of no use afterwards.
    """
    started: Future[tuple[Contents, trio.CancelScope]] = Future()
    thread = threading.Thread(
        target=_run, args=(bootstrap, backend, directory, started), name="contents"
    )
    thread.start()
    contents, scope = started.result()
    try:
        yield contents
    finally:
        contents.end(scope)
        thread.join()


def _run(
    bootstrap: Bootstrap,
    backend: Ranges,
    directory: str,
    started: Future[tuple[Contents, trio.CancelScope]],
) -> None:
    try:
        trio.run(_serve, bootstrap, backend, directory, started)
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)


async def _serve(
    bootstrap: Bootstrap,
    backend: Ranges,
    directory: str,
    started: Future[tuple[Contents, trio.CancelScope]],
) -> None:
    # Files are closed when no thread of a fetch can write to them any more.
    with ExitStack() as closing:
        async with trio.open_nursery() as nursery:
            store = CacheStore(directory, nursery)
            closing.callback(store.close, lasting=False)
            fetcher = Fetcher(backend, outage_deadline=_PATIENCE)
            image = Image(bootstrap, store, fetcher)
            contents = Contents(image, trio.lowlevel.current_trio_token())
            started.set_result((contents, nursery.cancel_scope))
            await trio.sleep_forever()
