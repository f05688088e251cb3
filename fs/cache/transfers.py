"""The missing chunks of one blob on their way: requested, decoded, verified and kept, each once.

A flight lives in the cache's nursery, so a reader that is cancelled takes nothing from the
others, and whatever happens to its task, it lands. Between looking for a chunk and `begin` there
is no await.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import trio

from fs.cache import plan
from fs.cache.arrival import Arrival, Arriving
from fs.cache.fetch import Fetching, Urgency
from fs.cache.files import BlobFiles
from fs.cache.flight import Flight, Flights, landing
from fs.cache.held import Held
from fs.cache.index import ContentIndex
from fs.cache.intake import Decoded, Intake
from fs.cache.quota import Quota
from fs.cache.stream import Leg
from fs.format.blobtable import BlobRecord
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, StorageError, VerifyError


class Transfers:
    """`all_flights` are those of all images that share the files; `held` is what no file takes."""

    def __init__(
        self,
        blob: BlobRecord,
        table: ChunkTable,
        fetcher: Fetching,
        files: BlobFiles | None,
        intake: Intake,
        quota: Quota | None,
        all_flights: Flights,
        held: Held,
    ) -> None:
        self.held = held
        self._where = f"blob {blob.blob_id}"
        self._blob = blob
        self._table = table
        self._fetcher = fetcher
        self._files = files
        self._intake = intake
        self._quota = quota
        self._flights: dict[int, Flight] = {}
        self._all_flights = all_flights
        self._decoders = trio.CapacityLimiter(os.cpu_count() or 1)

    def adopt(self, files: BlobFiles, index: ContentIndex, flights: Flights) -> None:
        """Keep chunks in `files` from now on. Between two awaits: readers ask anew after each."""
        self._files, self._all_flights = files, flights
        self._intake.adopt(files, index)
        self.held.clear()  # so that they come into the files

    def __contains__(self, row: int) -> bool:
        return row in self._flights

    def __getitem__(self, row: int) -> Flight:
        return self._flights[row]

    def of_another(self, row: int) -> Flight | None:
        """What another image of the blob is fetching already, unless this one does too."""
        there = self._all_flights.get(self._table.uncompressed_offsets[row])
        return None if row in self._flights else there

    async def idle(self) -> None:
        while self._flights:
            await next(iter(self._flights.values())).landed()

    def has(self, row: int) -> bool:
        """Whether the chunk is in the files."""
        return self._files is not None and self._files.has(self._table.positions[row])

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Those of `rows` that are neither here nor on their way."""
        return [row for row in rows if not self.has(row) and row not in self._flights]

    def is_free(self, row: int) -> bool:
        """Whether a request for others may bring it too."""
        return not (self.has(row) or row in self._flights or self.is_suspect(row))

    def is_suspect(self, row: int) -> bool:
        """Whether it is here, unverified since an unclean stop."""
        return self._files is not None and self._files.is_suspect(self._table.positions[row])

    def completed(self, rows: Sequence[int]) -> Sequence[int]:
        """`rows` and what comes with them anyway."""
        return plan.completed(self._table, rows, self.is_free)

    async def load(self, rows: Iterable[int], leg: Leg | None) -> None:
        """Bring what is missing of neighbouring `rows` by one request, or of that of the `leg`.

        Raises the Failure of the first that did not come.
        """
        if self._quota is not None and self._quota.full:
            raise StorageError(f"{self._where}: the cache is at its limit")
        absent = self.missing(rows)
        suspects = [row for row in absent if self.is_suspect(row)]
        whole = self.completed([row for row in absent if row not in suspects])
        fresh, doubted = self.begin(whole), self.begin(suspects)
        begun = fresh | doubted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recheck, suspects, doubted, Urgency.PREFETCH)
            nursery.start_soon(self.fly, whole, whole, fresh, Urgency.PREFETCH, leg)
        for flight in begun.values():
            if flight.error is not None:
                raise flight.error
        if not all(self.has(row) for row in begun):
            raise StorageError(f"{self._where}: the cache takes no more")

    def begin(self, rows: Iterable[int]) -> dict[int, Flight]:
        """Say that `rows` are on their way; `fly` or `recheck` has to follow."""
        flights = {row: Flight() for row in rows}
        self._flights.update(flights)
        for row, flight in flights.items():
            self._all_flights.setdefault(self._table.uncompressed_offsets[row], flight)
        return flights

    def _land(self, flights: dict[int, Flight], row: int, outcome: bytes | Failure) -> None:
        flight = flights.pop(row)
        del self._flights[row]
        offset = self._table.uncompressed_offsets[row]
        if self._all_flights.get(offset) is flight:
            del self._all_flights[offset]
        flight.land(outcome)

    async def recheck(
        self,
        rows: list[int],
        flights: dict[int, Flight],
        urgency: Urgency = Urgency.DEMAND,
    ) -> None:
        """Serve chunks of an unclean stop from disk if they still have their digests."""
        with self._landing(flights):
            for row in rows:
                data = await trio.to_thread.run_sync(self._intake.recheck, row)
                if data is not None:
                    self._land(flights, row, data)
            await self._fetch(list(flights), list(flights), flights, urgency)

    async def fly(
        self,
        wanted: Sequence[int],
        whole: Sequence[int],
        flights: dict[int, Flight],
        urgency: Urgency = Urgency.DEMAND,
        leg: Leg | None = None,
    ) -> None:
        """Bring the chunks of `whole` by one request, those of `wanted` first."""
        with self._landing(flights):
            if self._intake.may_copy():
                for portion in plan.portions(self._table, whole):
                    for decoded in await trio.to_thread.run_sync(
                        self._intake.copy, portion, limiter=self._decoders
                    ):
                        self._enter(decoded, flights)
            if len(flights) == len(whole) or leg is not None:
                left = whole if len(flights) == len(whole) else sorted(flights)
                await self._fetch(wanted, left, flights, urgency, leg)
                return
            for run in plan.requests(self._table, sorted(flights), plan.ANY_SIZE):
                with self._landing({row: flights.pop(row) for row in run}) as own:
                    first = [row for row in run if row in wanted]
                    await self._fetch(first, run, own, urgency)

    @contextmanager
    def _landing(self, flights: dict[int, Flight]) -> Iterator[dict[int, Flight]]:
        """No flight is left in the air: who waits gets the failure."""

        def land(failure: Failure) -> None:
            for row in list(flights):
                self._land(flights, row, failure)

        with landing(self._where, land):
            yield flights

    async def _fetch(
        self,
        wanted: Sequence[int],
        whole: Sequence[int],
        flights: dict[int, Flight],
        urgency: Urgency,
        leg: Leg | None = None,
    ) -> None:
        if not whole:
            return
        for row in whole:
            self._intake.check(row)
        base, size = plan.span(self._table, whole)
        wrong: list[Decoded] = []
        arriving = Arriving(self._table, whole, wanted, base, Arrival(size))
        failure = await self._receive(arriving, size, flights, wrong, urgency, leg)
        if failure is not None:
            pieces = plan.by_piece(self._table, whole)
            if len(pieces) == 1 or not isinstance(failure, VerifyError):
                raise failure
            # The blob is cut short somewhere in this range: only what is cut is lost.
            for piece in pieces:
                left = [row for row in piece if row in flights]
                with self._landing({row: flights.pop(row) for row in left}) as single:
                    await self._fetch(left, left, single, urgency)
        elif wrong and self._is_asked_again(base, size, leg):
            rows = sorted(decoded.row for decoded in wrong)
            again = [row for row in rows if row in wanted]
            await self._fetch(again, rows, flights, urgency)
        else:
            for decoded in wrong:
                self._enter(decoded, flights)

    async def _receive(
        self,
        arriving: Arriving,
        size: int,
        flights: dict[int, Flight],
        wrong: list[Decoded],
        urgency: Urgency,
        leg: Leg | None,
    ) -> Exception | None:
        """Land what is right while it comes; what ended it early."""
        name, arrival = self._blob.blob_id, arriving.arrival
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_in, arriving, flights, wrong)
            try:
                body = await self._fetcher.fetch(name, arriving.base, size, urgency, arrival, leg)
                arrival.end(body)
            except Exception as error:  # returned, as it would be raised in a group
                return error
            finally:
                arrival.end()
                if leg is not None:
                    leg.end()
        return None

    def _is_asked_again(self, base: int, size: int, leg: Leg | None) -> bool:
        """Whether wrong bytes may come right: from another server, which only a request of their
        own finds.
        """
        if leg is not None:
            leg.stream.cut()
            return True
        return self._fetcher.reject(self._blob.blob_id, base, size)

    async def _take_in(
        self, arriving: Arriving, flights: dict[int, Flight], wrong: list[Decoded]
    ) -> None:
        """Decode what arrives while the rest is still coming; what is `wrong` does not land."""
        async for rows, body in arriving:
            for decoded in await trio.to_thread.run_sync(
                self._intake.decode, rows, arriving.base, body, limiter=self._decoders
            ):
                if isinstance(decoded.error, VerifyError):
                    wrong.append(decoded)
                else:
                    self._enter(decoded, flights)

    def _enter(self, decoded: Decoded, flights: dict[int, Flight]) -> None:
        if decoded.data is None:
            assert decoded.error is not None
            self._land(flights, decoded.row, decoded.error)
            return
        if decoded.stored:
            self.held.clear()  # the disk takes chunks again
        else:
            self.held.keep(decoded.row, decoded.data)
        if self._quota is not None:
            self._quota.entered(len(decoded.data), stored=decoded.stored)
        self._land(flights, decoded.row, decoded.data)
