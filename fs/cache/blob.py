"""The decoded bytes of one blob, from local files or fetched, verified and kept.

Reads are in the decoded blob's own offsets, so one cache serves files of a
tree and the flat device of an in-kernel file system alike. No byte leaves
unless its chunk had the digest of the chunk table when it entered.

A missing chunk is fetched once however many readers wait for it (`transfers.py`).
Shared state and the awaits that matter: docs/concurrency.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import trio

from fs.cache import plan
from fs.cache.fetch import Fetching, Urgency
from fs.cache.files import BlobFiles
from fs.cache.flight import Flights
from fs.cache.gaps import BLOCK, SECTOR, Gaps
from fs.cache.held import Held
from fs.cache.index import ContentIndex
from fs.cache.intake import Intake
from fs.cache.neighbours import Neighbours
from fs.cache.onward import STEPS, Onward
from fs.cache.quota import Quota
from fs.cache.stream import Leg, Stream
from fs.cache.transfers import Transfers
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.chunktable import ChunkTable
from fs.format.errors import FormatError

log = logging.getLogger(__name__)
Data = bytes | bytearray | memoryview

#: Who reads so much of a flat file at once is the kernel, which reads ahead by itself (bytes).
_GREEDY = 256 << 10


class BlobCache:
    """`files` is None when the cache directory is of no use: then all is kept in memory only,
    until there are files to `adopt`.
    """

    def __init__(
        self,
        blob: BlobRecord,
        table: ChunkTable,
        fetcher: Fetching,
        files: BlobFiles | None,
        nursery: trio.Nursery,
        *,
        digester: int,
        amplify: int = 128 << 10,
        index: ContentIndex | None = None,
        quota: Quota | None = None,
        flights: Flights | None = None,
        held: Held,
    ) -> None:
        if len(table) and not any(table.digests):
            raise FormatError(
                "its chunks have no digests to verify them by", f"blob {blob.blob_id}"
            )
        self.blob = blob
        self.table = table
        self.reads = self.hits = 0  # hits found all of their chunks here
        self._fetcher = fetcher
        self._files = files
        self._nursery = nursery
        self._neighbours = Neighbours(table, amplify)
        self._gaps = Gaps(table, blob.uncompressed_size)
        self._onward = Onward(table, STEPS if amplify else None)
        intake = Intake(blob, table, digester, files, index, quota)
        known = Flights() if flights is None else flights
        self._transfers = Transfers(blob, table, fetcher, files, intake, quota, known, held)

    async def read(self, offset: int, length: int, *, widen: bool = True) -> Data:
        """Bytes [offset, offset+length) of the decoded blob, all of them inside chunks.

        `widen` is False for a reader at random places, whom neighbours are of no use to.
        Raises FormatError where no chunk is, VerifyError for a corrupt one, and
        what the backend raises.
        """
        ready = self.read_now(offset, length)
        if ready is not None:
            return ready
        rows = self._covering(offset, offset + length)
        chunks = await self._obtain(self._count(rows), widen=widen)
        return await self._assemble(rows, chunks, offset, offset + length)

    def read_now(
        self, offset: int, length: int, buffer: memoryview | None = None
    ) -> memoryview | None:
        """What `read` returns, in `buffer` if given; None, and no read, if memory has it not."""
        return self._read_now(self._covering(offset, offset + length), offset, length, buffer)

    def _read_now(
        self, rows: range, offset: int, length: int, buffer: memoryview | None
    ) -> memoryview | None:
        if self._files is None or not length:
            return None
        stamp = self._files.stamp()
        for row in rows:
            if not self._files.has(self.table.positions[row]):
                return None
        ready = self._files.read_now(offset, length, stamp, buffer)
        if ready is not None:
            self._use(rows)
            self.reads += 1
            self.hits += 1
            if rows.stop > self._onward.mark:
                self._go_onward(self._onward.window())
        return ready

    def _count(self, rows: range) -> list[int]:
        """Note a read; the rows that are not here."""
        missing = [row for row in rows if not self._has(row)]
        if rows.stop > self._onward.mark:
            self._go_onward(self._onward.window())
        self.reads += 1
        self.hits += not missing
        return missing

    async def read_flat(self, offset: int, length: int) -> Data:
        """Exactly `length` bytes of the decoded blob as one flat file.

        What lies in no chunk, or behind the end, reads as zeros. Raises as `read` does.
        """
        ready = self.read_flat_now(offset, length, memoryview(bytearray(length)))
        if ready is not None:
            return ready
        end = min(offset + length, self.blob.uncompressed_size)
        rows = self.table.rows_between(offset, end)
        missing = self._count(rows)
        flat = memoryview(bytearray(length))
        if not missing and self._files is not None and offset < end:
            positions = self._positions(rows)
            local = await trio.to_thread.run_sync(self._files.read, positions, offset, end - offset)
            if local is not None:
                flat[: end - offset] = local
                return self._gaps.blank(flat, offset, end)
        chunks = await self._obtain(missing, widen=length < _GREEDY)
        for row in rows:
            first = self.table.uncompressed_offsets[row]
            low, high = max(offset, first), min(end, first + self.table.uncompressed_sizes[row])
            data = await self._assemble(range(row, row + 1), chunks, low, high)
            flat[low - offset : high - offset] = data
        return flat

    def read_flat_now(self, offset: int, length: int, buffer: memoryview) -> memoryview | None:
        """What `read_flat` returns, in the beginning of `buffer`, or None as `read_now`."""
        end = min(offset + length, self.blob.uncompressed_size)
        rows = self.table.rows_between(offset, end)
        if self._read_now(rows, offset, max(0, end - offset), buffer) is None:
            return None
        return self._gaps.blank(buffer[:length], offset, end)

    def whole_file(self) -> str | None:
        """The path of the decoded blob, once all of it is on disk exactly as the table says.

        Everything behind it is then synced, and never changes again. None as long as
        anything is missing, or another image has other chunks in the file. Blocks.
        """
        files, size = self._files, self.blob.uncompressed_size
        block = SECTOR if self.blob.features & BlobFeature.TARFS else BLOCK
        if files is None or size % block or files.count() < len(self.table):
            return None
        if any(files.has_data(start, end) for start, end in self._gaps.between(0, size)):
            return None
        return files.data_path if files.freeze(self.table.positions) else None

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Those of `rows` that are neither here nor on their way."""
        return self._transfers.missing(rows)

    def ahead(self, start: int, end: int) -> None:
        """Begin to fetch missing chunks that start in [start, end), unless enough is under way."""
        rows = self.table.rows_between(start, end)
        if rows and self.table.uncompressed_offsets[rows[0]] < start:
            rows = rows[1:]
        self._fetch_ahead(rows, end - start)

    def _go_onward(self, rows: range) -> None:
        if rows and self._fetch_ahead(rows, plan.ANY_SIZE):
            self._onward.taken(rows)

    def _fetch_ahead(self, rows: range, size: int) -> bool:
        if self._files is None or self._transfers.held or self._fetcher.is_busy(Urgency.AHEAD):
            return False
        flying = self._transfers
        absent = self.missing(rows)
        suspects = [row for row in absent if flying.is_suspect(row)]
        if suspects:
            begun = flying.begin(suspects)
            self._nursery.start_soon(flying.recheck, suspects, begun, Urgency.AHEAD)
        for run in plan.requests(self.table, self.missing(absent), max(size, plan.MERGED)):
            if fresh := self.missing(run):
                whole = flying.completed(fresh)
                begun = flying.begin(whole)
                self._nursery.start_soon(flying.fly, fresh, whole, begun, Urgency.AHEAD)
        return True

    def stream(self, rows: Sequence[int]) -> Stream | None:
        """For legs that bring neighbouring `rows` in their order; None: each has its request."""
        return self._fetcher.stream(self.blob.blob_id, sum(plan.span(self.table, rows)))

    async def load(self, rows: Iterable[int], *, last: bool = True, leg: Leg | None = None) -> None:
        """Fetch what is missing of neighbouring `rows` by one request, or of that of the `leg`.

        `last`: after all that readers wait for. Raises the Failure of the first that did not come.
        """
        if last:
            await self._fetcher.turn()
        await self._transfers.load(rows, leg)

    def adopt(self, files: BlobFiles, index: ContentIndex, flights: Flights) -> None:
        """Keep chunks in `files` from now on. Between two awaits: readers ask anew after each."""
        self._files = files
        self._transfers.adopt(files, index, flights)

    def settle(self) -> None:
        """Make a blob that is whole durable and say so in its files. Blocking."""
        if self._files is not None:
            self._files.settle()

    def is_whole(self) -> bool:
        """Whether every chunk of this table is here."""
        if self._files is None or self._files.count() < len(self.table):
            return False
        return all(self._has(row) for row in range(len(self.table)))

    def counts(self) -> dict[str, int]:
        """Chunks of this table that are here, and in all."""
        return {"chunks": len(self.table), "cached": self._files.count() if self._files else 0}

    async def idle(self) -> None:
        await self._transfers.idle()

    def close(self, *, lasting: bool = True) -> None:
        self._transfers.held.clear()
        if self._files is not None:
            self._files.close(lasting=lasting)

    def _covering(self, start: int, end: int) -> range:
        """The rows that hold [start, end) without a gap between them."""
        rows = self.table.rows_between(start, end)
        reached = start
        for row in rows:
            if self.table.uncompressed_offsets[row] > reached:
                break
            reached = self.table.uncompressed_offsets[row] + self.table.uncompressed_sizes[row]
        if reached < end:
            raise FormatError(f"no chunk at decoded offset {reached}", f"blob {self.blob.blob_id}")
        return rows

    def _has(self, row: int) -> bool:
        return self._files is not None and self._files.has(self.table.positions[row])

    async def _obtain(self, missing: Sequence[int], *, widen: bool = True) -> dict[int, bytes]:
        """The chunks of `missing`, from flights under way, new ones, or memory."""
        chunks = self._transfers.held.of(missing)
        absent = [row for row in missing if row not in chunks]
        others = {row: flight for row in absent if (flight := self._transfers.of_another(row))}
        own = [row for row in absent if row not in others]
        self._launch([row for row in own if row not in self._transfers], widen=widen)
        for row, flight in [(row, self._transfers[row]) for row in own]:
            chunks[row] = await flight.wait()
        for row, flight in others.items():
            data = await flight.wait_briefly()
            if data is None:  # but this image's own backend may have it
                self._launch([row] if row not in self._transfers else [])
                data = await self._transfers[row].wait()
            chunks[row] = data
        return chunks

    async def _assemble(self, rows: range, chunks: dict[int, bytes], start: int, end: int) -> Data:
        pieces: list[Data] = []
        for row in rows:
            first = self.table.uncompressed_offsets[row]
            low = max(start, first)
            high = min(end, first + self.table.uncompressed_sizes[row])
            chunk = chunks.get(row)
            if chunk is None:
                pieces.append(await self._read_local(row, low, high))
            else:
                pieces.append(memoryview(chunk)[low - first : high - first])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _read_local(self, row: int, low: int, high: int) -> Data:
        """Bytes of a chunk that is here; if it was taken back or lost, it is fetched again."""
        assert self._files is not None
        stamp = self._files.stamp()
        data: Data | None = None
        if self._has(row):
            self._use(range(row, row + 1))
            data = self._files.read_now(low, high - low, stamp, None)
        if data is None:
            positions = [self.table.positions[row]]
            data = await trio.to_thread.run_sync(self._files.read, positions, low, high - low)
        if data is not None:
            return data
        first = self.table.uncompressed_offsets[row]
        chunk = (await self._obtain([row]))[row]
        return memoryview(chunk)[low - first : high - first]

    def _use(self, rows: range) -> None:
        assert self._files is not None
        for row in rows:
            self._files.use(self.table.positions[row])

    def _positions(self, rows: Iterable[int]) -> list[int]:
        return [self.table.positions[row] for row in rows]

    def _launch(self, wanted: list[int], *, widen: bool = True) -> None:
        """Start flights for `wanted`, each with the missing neighbours its request can carry."""
        if not wanted:
            return
        flying = self._transfers
        suspects = [row for row in wanted if flying.is_suspect(row)]
        if suspects:
            self._nursery.start_soon(flying.recheck, suspects, flying.begin(suspects))
        absent = [row for row in wanted if row not in self._transfers]
        for run in plan.requests(self.table, absent, plan.MERGED):
            fresh = [row for row in run if row not in self._transfers]
            if fresh:
                whole: Sequence[int] = fresh
                if widen:
                    whole = self._neighbours.around(fresh, flying.is_free, plan.GAP)
                whole = flying.completed(whole)
                self._nursery.start_soon(flying.fly, fresh, whole, flying.begin(whole))
                self._go_onward(self._onward.missed(whole[0], whole[-1]))
