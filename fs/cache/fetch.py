"""Ranges of one backend: a few requests at a time, demand before prefetch, patient in outages.

Each urgency has requests of its own, so that a waiting reader never queues
behind large requests that nobody waits for yet.

A fault that may pass (UnreachableError) is retried until the outage has lasted
`outage_deadline` seconds. The deadline is the outage's, not the read's: once it
is over, every read makes one attempt and fails fast until an attempt succeeds.
A read that fails while others succeed gives up after the same time. An attempt ends
by itself, however slowly a server sends (fs/registry/pace.py). Any other failure is
final at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import trio

from fs.cache.arrival import Arrival
from fs.cache.stream import Leg, Pieces, Stream
from fs.cache.tally import Tally
from fs.format.errors import UnreachableError
from fs.registry.retry import RetryPolicy

log = logging.getLogger(__name__)

#: An outage that nobody ran into for so long (seconds) is over; the next fault begins another.
_FORGET = 60.0


class Urgency(Enum):
    """Who waits; the value is how many requests of the kind are under way at once."""

    DEMAND = 16
    """a reader"""
    AHEAD = 4
    """nobody yet, but a reader is coming this way"""
    PREFETCH = 2
    """nobody"""


class Ranges(Protocol):
    """The part of a backend that is used here; also `pieces`, of type `Pieces`, if it has that."""

    def read(self, blob: str, offset: int, length: int) -> bytes: ...


class Fetching(Protocol):
    """Ranges of blobs for a cache, as `Fetcher` gives them."""

    def is_busy(self, urgency: Urgency) -> bool: ...
    async def turn(self) -> None: ...
    async def fetch(
        self,
        blob: str,
        offset: int,
        length: int,
        urgency: Urgency = Urgency.DEMAND,
        arrival: Arrival | None = None,
        leg: Leg | None = None,
    ) -> bytes | bytearray: ...
    def stream(self, blob: str, end: int) -> Stream | None: ...
    def reject(self, blob: str, offset: int, length: int) -> bool: ...


class Fetcher:
    """`requests` counts attempts and `bytes_fetched` what they brought.

    `on_fetched` is called after each that brought something.
    """

    def __init__(
        self,
        backend: Ranges,
        *,
        outage_deadline: float = 120.0,
        backoff: RetryPolicy | None = None,
        on_fetched: Callable[[], None] = lambda: None,
    ) -> None:
        self.requests = 0
        self.bytes_fetched = 0
        self.failures = 0
        self.tally = Tally()
        self._backend = backend
        self._pieces: Pieces | None = getattr(backend, "pieces", None)
        self._limiters = {kind: trio.CapacityLimiter(kind.value) for kind in Urgency}
        self._threads = trio.CapacityLimiter(math.inf)
        self._on_fetched = on_fetched
        self._deadline = outage_deadline
        self._backoff = backoff or RetryPolicy(base=0.2, longest=3.0)
        self._outage_since: float | None = None
        self._last_fault = 0.0
        self._demanded = 0
        self._no_demand = trio.Event()
        self._no_demand.set()

    def is_busy(self, urgency: Urgency) -> bool:
        """Whether another request of this kind would have to wait."""
        return self._limiters[urgency].available_tokens == 0

    async def turn(self) -> None:
        """Wait until no reader waits: the background's turn to ask."""
        while self._demanded:
            await self._no_demand.wait()

    async def fetch(
        self,
        blob: str,
        offset: int,
        length: int,
        urgency: Urgency = Urgency.DEMAND,
        arrival: Arrival | None = None,
        leg: Leg | None = None,
    ) -> bytes | bytearray:
        """Exactly `length` bytes, unverified; raises what the backend raises.

        `arrival` is told of them as they come, where the backend can. They are taken of the
        `leg`'s stream when its turn comes.
        """
        if leg is not None:
            await leg.turn()
        if urgency is Urgency.PREFETCH:
            return await self._patiently(blob, offset, length, urgency, arrival, leg)
        if not self._demanded:
            self._no_demand = trio.Event()
        self._demanded += 1
        try:
            return await self._patiently(blob, offset, length, urgency, arrival, leg)
        finally:
            self._demanded -= 1
            if not self._demanded:
                self._no_demand.set()

    def stream(self, blob: str, end: int) -> Stream | None:
        """A long range up to `end`, for several fetches; None where nothing comes in pieces."""
        return None if self._pieces is None else Stream(self._pieces, blob, end)

    def reject(self, blob: str, offset: int, length: int) -> bool:
        """Say that the bytes of a fetch were wrong; whether another server would be asked now."""
        rejecting = getattr(self._backend, "reject", None)
        return rejecting is not None and bool(rejecting(blob, offset, length))

    async def _patiently(
        self,
        blob: str,
        offset: int,
        length: int,
        urgency: Urgency,
        arrival: Arrival | None,
        leg: Leg | None,
    ) -> bytes | bytearray:
        begun = trio.current_time()
        attempt = 0
        while True:
            attempt += 1
            try:
                data = await self._once(blob, offset, length, urgency, arrival, leg)
            except UnreachableError as error:
                if self._outage_is_over_deadline() or self._is_over_deadline(begun):
                    raise
                wait = self._backoff.delay(attempt, getattr(error, "retry_after", None))
                log.warning("%s; asking again in %.1f s", error, wait)
                await trio.sleep(wait)
            else:
                self._outage_since = None
                return data

    async def _once(
        self,
        blob: str,
        offset: int,
        length: int,
        urgency: Urgency,
        arrival: Arrival | None,
        leg: Leg | None,
    ) -> bytes | bytearray:
        token = trio.lowlevel.current_trio_token()

        def receive() -> bytes | bytearray:
            if arrival is None or self._pieces is None:
                return self._backend.read(blob, offset, length)
            if leg is not None:
                return arrival.receive(leg.stream.take(offset, length), token)
            return arrival.receive(self._pieces(blob, offset, length), token)

        async with self._limiters[urgency]:
            further = leg is not None and leg.stream.continues(offset)
            self.requests += not further
            begun, succeeded = trio.current_time(), False
            try:
                data = await trio.to_thread.run_sync(
                    receive, abandon_on_cancel=True, limiter=self._threads
                )
            except Exception:
                self.failures += 1
                raise
            else:
                succeeded = True
            finally:
                seconds = trio.current_time() - begun
                log.debug(
                    "%s: %d bytes at %d of %.12s in %.0f ms",
                    urgency.name,
                    length,
                    offset,
                    blob,
                    seconds * 1000,
                )
                unasked = urgency is Urgency.PREFETCH
                self.tally.count(
                    length, seconds, succeeded=succeeded, unasked=unasked, further=further
                )
        self.bytes_fetched += len(data)
        self._on_fetched()
        return data

    def _outage_is_over_deadline(self) -> bool:
        now = trio.current_time()
        if self._outage_since is None or now - self._last_fault > _FORGET:
            self._outage_since = now
        self._last_fault = now
        return self._is_over_deadline(self._outage_since)

    def _is_over_deadline(self, since: float) -> bool:
        return trio.current_time() - since >= self._deadline
