"""What is fetched before anybody asks: the image's own list first, then, if wanted, all the rest.

What was made for the start comes first, by one request a place however large it is, then the
list, in its order, by few large ranges. Of a large range only the next few MiB count as on their
way: who reads further on asks by himself. Both are what readers are about to wait for, so they
come beside what readers wait for already. The rest comes blob by blob at a limited rate, by
requests that are made only when no reader waits. It works until all is here, can be held and
continued, and survives an outage as a state, not as an end: `resume` tries again. Nothing here
runs by the clock but the limited rate.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import trio

from fs.cache import plan
from fs.cache.blob import BlobCache
from fs.cache.fetch import Urgency
from fs.cache.stream import Leg, Stream
from fs.format.chunktable import ChunkTable
from fs.format.errors import Failure, FormatError, UsageError, VerifyError

log = logging.getLogger(__name__)

MODES = ("table", "all", "none")
#: One request (bytes, as stored), but for what was made for the start.
_REQUEST = 8 << 20
#: What is fetched as one of a larger range (bytes), and how many are on their way.
_LEG = 2 << 20
_LEGS = 4
#: Chunks nobody listed that are fetched along rather than by a second request (bytes).
_GAP = 128 << 10
_SMALLEST = 256 << 10


class Content(Protocol):
    """The part of an image that is used here."""

    async def startup_blobs(self) -> list[BlobCache]: ...
    def prefetch_plan(self) -> AsyncIterator[tuple[BlobCache, list[int]]]: ...
    async def all_blobs(self) -> list[BlobCache]: ...
    async def settle(self) -> bool: ...


class Range(NamedTuple):
    """Neighbouring rows, in order, that one request can bring."""

    cache: BlobCache
    rows: list[int]

    @property
    def size(self) -> int:
        """Bytes as stored of what is still to come."""
        return plan.span(self.cache.table, self.missing)[1]

    @property
    def missing(self) -> list[int]:
        return self.cache.missing(self.rows)


class Part(NamedTuple):
    """Of a range; `leg` if its bytes come with those of other parts."""

    cache: BlobCache
    rows: list[int]
    leg: Leg | None

    @property
    def weight(self) -> int:
        """Of `_LEGS`."""
        return _LEGS // Urgency.PREFETCH.value if self.leg is None else 1


class Prefetch:
    """One image's. `run` once; everything else may be called at any time.

    `mode` is one of MODES; `bandwidth` limits what the list does not name (bytes a second).
    """

    def __init__(self, image: Content, mode: str = "table", bandwidth: int | None = None) -> None:
        if mode not in MODES:
            raise UsageError(f"prefetch {mode!r}: not one of {', '.join(MODES)}")
        if bandwidth is not None and bandwidth <= 0:
            raise UsageError("the prefetch bandwidth must be more than 0")
        self._image = image
        self._mode = mode
        self._pace = _Pace(bandwidth)
        self._going = trio.Event()
        self._going.set()
        self._state = "none" if mode == "none" else "table"
        self._failure: Failure | None = None
        self._chunks = self._done = 0

    async def run(self) -> None:
        """Ends when all is here; after a failure it waits for `resume`. Raises no Failure."""
        while self._state not in ("none", "done"):
            self._failure = None
            try:
                await self._work()
            except Failure as failure:
                self._failure = failure
            if self._failure is None:
                self._state = "done"
            else:
                log.warning("prefetch stops: %s", self._failure)
                self._state = "stopped"
                self.pause()
                await self._going.wait()

    def pause(self) -> None:
        """Begin no request from now on; those under way are finished."""
        if self._going.is_set():
            self._going = trio.Event()

    def resume(self) -> None:
        """Go on after `pause`, or try again what failed."""
        self._going.set()

    def status(self) -> dict[str, Any]:
        """`state`: none, table, all, paused, stopped (see `error`) or done."""
        held = not self._going.is_set() and self._state in ("table", "all")
        return {
            "mode": self._mode,
            "state": "paused" if held else self._state,
            "chunks": self._chunks,
            "done": self._done,
            "error": str(self._failure) if self._failure else None,
        }

    async def _work(self) -> None:
        self._state, self._chunks, self._done = "table", 0, 0
        await self._load(self._first())
        self._raise_failure()
        if self._mode == "all":
            self._state = "all"
            await self._load(self._remainder(), last=True)
            self._raise_failure()
            if self._failure is None:
                await self._finish()

    async def _finish(self) -> None:
        """What readers were fetching already is waited for, and fetched if they did not get it."""
        for cache in await self._image.all_blobs():
            await cache.idle()
        await self._load(self._remainder(), last=True)
        self._raise_failure()
        if self._failure is None:
            await self._image.settle()

    async def _first(self) -> AsyncGenerator[Range]:
        """What was made for the start and what is listed, each blob when its turn comes."""
        for cache in await self._image.startup_blobs():
            self._chunks += len(cache.table)
            for rows in ranges(cache.table, range(len(cache.table))):
                yield Range(cache, rows)
        async for cache, wanted in self._image.prefetch_plan():
            todo = [Range(cache, rows) for rows in ranges(cache.table, wanted, _REQUEST)]
            self._chunks += sum(len(each.rows) for each in todo)
            for each in todo:
                yield each

    async def _remainder(self) -> AsyncGenerator[Range]:
        limit = self._pace.request(_REQUEST)
        todo: list[Range] = []
        for cache in await self._image.all_blobs():
            absent = cache.missing(range(len(cache.table)))
            todo += [Range(cache, rows) for rows in ranges(cache.table, absent, limit)]
        self._chunks += sum(len(each.rows) for each in todo)
        for each in todo:
            yield each

    async def _load(self, todo: AsyncGenerator[Range], *, last: bool = False) -> None:
        """A few parts at a time, so that the link is not idle between one and the next.

        `last`: at the limited rate, each range by itself, and after all that readers wait for.
        """
        room = trio.Semaphore(_LEGS)
        streams: list[Stream] = []
        try:
            parts = self._parts(todo, streams, whole=last)
            async with trio.open_nursery() as nursery, aclosing(todo), aclosing(parts):
                async for part in parts:
                    for _ in range(part.weight):
                        await room.acquire()
                    await self._may_begin(part, last)
                    if self._is_broken():
                        break
                    nursery.start_soon(self._load_part, part, last, room)
        finally:
            for stream in streams:
                stream.cut()

    async def _parts(
        self, todo: AsyncIterator[Range], streams: list[Stream], *, whole: bool
    ) -> AsyncGenerator[Part]:
        """Ranges in their order, large ones leg by leg; `streams` are those that were begun."""
        try:
            async for cache, rows in todo:
                parts = [rows] if whole else plan.requests(cache.table, rows, _LEG)
                stream = cache.stream(rows) if len(parts) > 1 else None
                if stream is None:
                    yield Part(cache, rows, None)
                    continue
                streams.append(stream)
                for part in parts:
                    yield Part(cache, part, stream.leg())
        except Failure as failure:  # what is under way is brought to its end
            self._failure = failure

    async def _may_begin(self, part: Part, last: bool) -> None:
        if part.leg is not None and not self._going.is_set():
            await part.leg.turn()
            part.leg.stream.cut()
        await self._going.wait()
        if last:
            await self._pace.wait(Range(part.cache, part.rows).size)

    async def _load_part(self, part: Part, last: bool, room: trio.Semaphore) -> None:
        try:
            await part.cache.load(part.rows, last=last, leg=part.leg)
        except Failure as failure:
            self._failure = failure
        finally:
            if part.leg is not None:
                part.leg.end()
        self._done += len(part.rows)
        for _ in range(part.weight):
            room.release()

    def _is_broken(self) -> bool:
        """A damaged chunk is passed over; any other failure would only meet the next one too."""
        return self._failure is not None and not _is_local_to_a_chunk(self._failure)

    def _raise_failure(self) -> None:
        if self._failure is not None and self._is_broken():
            raise self._failure


def _is_local_to_a_chunk(failure: Failure) -> bool:
    return isinstance(failure, VerifyError | FormatError)


def ranges(table: ChunkTable, wanted: Sequence[int], limit: int | None = None) -> list[list[int]]:
    """`wanted` rows as ranges of up to `limit` bytes, in the order in which the first is wanted.

    None: of any size. Small gaps are filled with the rows that lie in them: they are paid for
    anyway.
    """
    rank: dict[int, int] = {}
    for number, row in enumerate(wanted):
        rank.setdefault(row, number)
    found: list[tuple[int, list[int]]] = []
    for row in sorted(rank):
        if found and _continues(table, found[-1][1], row, limit):
            first, rows = found[-1]
            rows.extend(range(rows[-1] + 1, row + 1))
            found[-1] = min(first, rank[row]), rows
        else:
            found.append((rank[row], [row]))
    found.sort(key=lambda each: each[0])
    return [rows for _, rows in found]


def _continues(table: ChunkTable, rows: list[int], row: int, limit: int | None) -> bool:
    """Whether `row` and what lies before it can join `rows`: stored behind them, and near."""
    if not plan.adjoin(table, rows[-1], row, _GAP):
        return False
    low, high = table.compressed_offsets[rows[-1]], table.compressed_offsets[row]
    for between in range(rows[-1] + 1, row):
        if not low <= table.compressed_offsets[between] <= high:
            return False
    if limit is None:
        return True
    decoded = plan.decoded_size(table, rows[0], row)
    return decoded <= plan.DECODED and plan.span(table, (rows[0], row))[1] <= limit


class _Pace:
    """A bucket of bytes that fills at `rate` a second and may be in debt by one request."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free = 0.0

    def request(self, largest: int) -> int:
        """How large a request may be, so that it holds the link for about a second."""
        return largest if self._rate is None else min(largest, max(_SMALLEST, self._rate))

    async def wait(self, amount: int) -> None:
        """Wait until `amount` bytes may begin to come."""
        if self._rate is None:
            return
        begin = max(self._free, trio.current_time())
        self._free = begin + amount / self._rate
        await trio.sleep_until(begin)
