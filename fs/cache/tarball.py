"""Blobs that are tar files as they are, or other external ones: only the whole has a digest.

So nothing of one is served before all of it is here and has the sha256 that is its name:
it is fetched front to back into `<id>.blob.part`, which a later mount continues, then
verified, and put into the cache's files piece by piece as if the pieces were chunks. A
piece that is taken back later costs the whole file again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from fs.cache.arrival import Arrival
from fs.cache.fetch import Fetching, Urgency
from fs.cache.files import BlobFiles
from fs.cache.flight import Flight, landing
from fs.cache.quota import Quota
from fs.cache.stream import Leg, Stream
from fs.format.blobtable import BlobRecord, Compressor
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, FormatError, StorageError, VerifyError

if TYPE_CHECKING:
    from hashlib import _Hash

log = logging.getLogger(__name__)

_PIECE = 1 << 20
_REQUEST = 4 << 20
#: Requests under way at once.
_REQUESTS = 4
#: Another process fetches the file; whether it has ended is asked so often (seconds).
_PATIENCE = 0.5
#: Larger than any layer; what the pieces of a file take in memory is by its size (bytes).
_LARGEST = 256 << 30
#: A file that was taken back as soon as it was here is fetched so often.
_ATTEMPTS = 3


def record_of(blob: BlobRecord) -> BlobRecord:
    """The record of a tar file with its pieces for chunks."""
    return replace(
        blob,
        chunk_count=-(-blob.uncompressed_size // _PIECE),
        compressor=Compressor.NONE,
        compressed_size=blob.uncompressed_size,
    )


def table_of(blob: BlobRecord) -> ChunkTable:
    """The pieces of a tar file (whose record is `record_of` of another). Their digest is its id."""
    if blob.uncompressed_size > _LARGEST:
        raise FormatError(
            f"tar file of {blob.uncompressed_size} bytes, at most {_LARGEST} can be proven",
            f"blob {blob.blob_id}",
        )
    digest = bytes.fromhex(blob.blob_id)
    rows = []
    for position, start in enumerate(range(0, blob.uncompressed_size, _PIECE)):
        size = min(_PIECE, blob.uncompressed_size - start)
        rows.append(ChunkRow(position, start, size, start, size, 0, digest))
    return ChunkTable(rows, blob, f"blob {blob.blob_id}")


class WholeFile:
    """Ranges of a tar file, all of them from a verified copy on local disk; a `Fetching`.

    `files` is where the pieces go once they are proven. Failures are those of `fetcher`;
    VerifyError, and StorageError if there is no room.
    """

    def __init__(
        self,
        blob: BlobRecord,
        fetcher: Fetching,
        files: BlobFiles | None,
        quota: Quota | None,
        nursery: trio.Nursery,
    ) -> None:
        self._blob = blob
        self._fetcher = fetcher
        self._files = files
        self._quota = quota
        self._nursery = nursery
        self._flight: Flight | None = None
        #: Of the whole file, while the cache's files do not take it.
        self._descriptor = -1
        self._where = f"blob {blob.blob_id}"

    def is_busy(self, urgency: Urgency) -> bool:
        return self._fetcher.is_busy(urgency)

    async def turn(self) -> None:
        await self._fetcher.turn()

    def stream(self, blob: str, end: int) -> Stream | None:
        """None: what comes is local."""
        return None

    def reject(self, blob: str, offset: int, length: int) -> bool:
        """What was verified is right."""
        return False

    async def fetch(
        self,
        blob: str,
        offset: int,
        length: int,
        urgency: Urgency = Urgency.DEMAND,
        arrival: Arrival | None = None,
        leg: Leg | None = None,
    ) -> bytes | bytearray:
        """Bytes of the file, once all of it is proven; so they come all at once."""
        for _ in range(_ATTEMPTS):
            data = await trio.to_thread.run_sync(self._read, offset, length)
            if data is not None:
                return data
            if self._flight is None:
                self._flight = Flight()
                self._nursery.start_soon(self._fly, self._flight, urgency)
            await self._flight.wait()
        raise StorageError(f"{self._where}: the cache does not keep it")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self, offset: int, length: int) -> bytes | None:
        if self._descriptor >= 0:
            data = os.pread(self._descriptor, length, offset)
            return data if len(data) == length else None
        if self._files is None:
            return None
        positions = list(range(offset // _PIECE, -(-(offset + length) // _PIECE)))
        return self._files.read(positions, offset, length)

    async def _fly(self, flight: Flight, urgency: Urgency) -> None:
        with landing(self._where, self._land):
            await self._obtain(urgency)
            flight.data = b""

    def _land(self, failure: Failure) -> None:
        flight, self._flight = self._flight, None
        assert flight is not None
        flight.land(failure if flight.data is None else flight.data)

    async def _obtain(self, urgency: Urgency) -> None:
        """Make the whole file local and proven."""
        self.close()
        if self._files is None:
            raise StorageError(
                f"{self._where}: proven only as a whole, for which there is no room on disk"
            )
        path = self._files.data_path.removesuffix(".data") + ".part"
        descriptor = await self._open_alone(path)
        try:
            taken = self._is_here(self._files)  # by whoever was at it before
            if not taken:
                await self._fill(descriptor, urgency)
                taken = await trio.to_thread.run_sync(self._store, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        if taken:
            with suppress(FileNotFoundError):
                os.unlink(path)
            self.close()
            if self._quota is not None:
                self._quota.entered(self._blob.uncompressed_size, stored=True)

    def _is_here(self, files: BlobFiles) -> bool:
        return all(map(files.has, range(-(-self._blob.uncompressed_size // _PIECE))))

    async def _open_alone(self, path: str) -> int:
        """The partial file, once no other process is at it."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return descriptor
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    os.close(descriptor)
                    raise
            os.close(descriptor)
            await trio.sleep(_PATIENCE)

    async def _fill(self, descriptor: int, urgency: Urgency) -> None:
        """Continue the file to its end; what turns out wrong is begun anew, where that may help."""
        size = self._blob.uncompressed_size
        while True:
            kept = min(os.fstat(descriptor).st_size, size)
            os.ftruncate(descriptor, kept)
            found = hashlib.sha256()
            await trio.to_thread.run_sync(_update_from, found, descriptor, kept)
            await self._append(descriptor, kept, found, urgency)
            if found.hexdigest() == self._blob.blob_id:
                return
            os.ftruncate(descriptor, 0)
            # Of a file that was continued, the first part may be what is wrong.
            if not kept and not self._fetcher.reject(self._blob.blob_id, 0, size):
                raise VerifyError(f"{self._where}: its bytes do not have its digest")

    async def _append(self, descriptor: int, start: int, found: _Hash, urgency: Urgency) -> None:
        size = self._blob.uncompressed_size
        while start < size:
            end = min(size, start + _REQUESTS * _REQUEST)
            parts: dict[int, bytes | bytearray | Failure] = {}
            async with trio.open_nursery() as nursery:
                for offset in range(start, end, _REQUEST):
                    nursery.start_soon(self._fetch_part, offset, end, parts, urgency)
            for offset in sorted(parts):
                part = parts[offset]
                if isinstance(part, Failure):
                    raise part
                await trio.to_thread.run_sync(_put, descriptor, offset, part, found)
            start = end

    async def _fetch_part(
        self, offset: int, end: int, parts: dict[int, bytes | bytearray | Failure], urgency: Urgency
    ) -> None:
        length = min(_REQUEST, end - offset)
        try:
            parts[offset] = await self._fetcher.fetch(self._blob.blob_id, offset, length, urgency)
        except Failure as error:
            parts[offset] = error

    def _store(self, descriptor: int) -> bool:
        """Put all pieces into the cache's files; False when they are not taken."""
        assert self._files is not None
        size, quota = self._blob.uncompressed_size, self._quota
        if quota is not None and (quota.full or size > quota.limit):
            return False
        for position, start in enumerate(range(0, size, _PIECE)):
            length = min(_PIECE, size - start)
            data = os.pread(descriptor, length, start)
            if len(data) != length or not self._files.store(position, start, data):
                return False
        return True


def _put(descriptor: int, offset: int, data: bytes | bytearray, found: _Hash) -> None:
    found.update(data)
    view: memoryview = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _update_from(found: _Hash, descriptor: int, size: int) -> None:
    for offset in range(0, size, _REQUEST):
        found.update(os.pread(descriptor, min(_REQUEST, size - offset), offset))


def is_proven(descriptor: int, size: int, blob_id: str) -> bool:
    """Whether the first `size` bytes of a file have the digest that is a blob's name. Blocks."""
    found = hashlib.sha256()
    _update_from(found, descriptor, size)
    return found.hexdigest() == blob_id
