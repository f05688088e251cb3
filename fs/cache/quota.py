"""A limit on what a cache directory takes on disk, kept when something is written.

There is no clock here: chunks that enter are counted, and when the sum may be
over the limit the directory is measured and the least recently used chunks are
evicted, until a sixteenth of the limit is free. While that is not possible (all
is being read, or the kernel has it) chunks pass through unstored.

What enters while the directory is measured is held against the result, and what is
above the limit then goes at once, though it was just read: only what is on its way
into the files can be above the limit, and only until it was counted.
"""

from __future__ import annotations

import logging

import trio

from fs.cache.eviction import allocated, evict
from fs.cache.index import ContentIndex

log = logging.getLogger(__name__)

#: Part of the limit that is freed at once, and that may enter between two measurements.
_STEP = 16
#: When nothing could be evicted, the next attempt is that much later (seconds).
_PATIENCE = 1.0


class Quota:
    """`limit` in bytes for all files below `directory`. For the trio thread, but `full`.

    What was read within the last `grace` seconds counts as being read.
    """

    def __init__(
        self,
        directory: str,
        limit: int,
        nursery: trio.Nursery,
        index: ContentIndex | None,
        *,
        grace: float = 10.0,
    ) -> None:
        self.limit = limit
        #: Nothing may be stored for now. Any thread may ask.
        self.full = False
        self._directory = directory
        self._nursery = nursery
        self._index = index
        self._grace = grace
        self._measured: int | None = None
        self._stored = 0
        self._busy = False
        self._tried = -_PATIENCE

    def entered(self, size: int, *, stored: bool) -> None:
        """So many bytes were stored, or else passed through because of this limit."""
        if stored:
            self._stored += size
        if self._busy or not self._is_due():
            return
        self._busy = True
        self._nursery.start_soon(self._enforce)

    def _is_due(self) -> bool:
        """Too much may be here; or it is time to try again to make room."""
        if self._measured is None or self._stored > max(0, self.limit - self._measured):
            return True
        if self.full:
            return trio.current_time() - self._tried >= _PATIENCE
        return self._stored > self.limit // _STEP

    async def _enforce(self) -> None:
        """Measure and evict until nothing has entered meanwhile that makes it due again."""
        try:
            while self._is_due():
                self._stored = 0
                self._measured, full = await trio.to_thread.run_sync(self._measure)
                self._tried = trio.current_time()
                if full and not self.full:
                    log.warning(
                        "cache %s: %d bytes in use, limit %d; chunks are not kept for now",
                        self._directory, self._measured, self.limit,
                    )  # fmt: skip
                self.full = full
        except OSError as error:
            self._measured = None
            log.warning("cache %s: %s", self._directory, error)
        finally:
            self._busy = False

    def _measure(self) -> tuple[int, bool]:
        """The bytes that are here after as much as needed was evicted; whether that is too much."""
        size = allocated(self._directory)
        if size <= self.limit and not self.full:
            return size, False
        step = self.limit // _STEP
        left = evict(self._directory, self.limit - step, grace=self._grace, index=self._index)
        if left > self.limit:
            return evict(self._directory, self.limit, index=self._index), True
        return left, left > self.limit - step // 2
