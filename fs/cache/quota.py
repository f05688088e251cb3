"""A limit on what a cache directory takes on disk, kept when something is written.

There is no clock here: chunks that enter are counted, and when the sum may be
over the limit the directory is measured and the least recently used chunks are
evicted, until a sixteenth of the limit is free. While that is not possible (all
is being read, or the kernel has it) chunks pass through unstored.
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
        self._entered = 0
        self._busy = False
        self._tried = -_PATIENCE

    def entered(self, size: int) -> None:
        """So many bytes were stored, or passed through because of this limit."""
        self._entered += size
        if self._busy or not self._is_due():
            return
        self._busy = True
        self._nursery.start_soon(self._enforce)

    def _is_due(self) -> bool:
        if self.full:
            return trio.current_time() - self._tried >= _PATIENCE
        return (
            self._measured is None
            or self._measured + self._entered > self.limit
            or self._entered > self.limit // _STEP
        )

    async def _enforce(self) -> None:
        self._entered = 0
        self._tried = trio.current_time()
        try:
            self._measured = await trio.to_thread.run_sync(self._measure)
            full = self._measured > self.limit
            if full and not self.full:
                log.warning(
                    "cache %s: %d bytes in use, limit %d; chunks are not kept for now",
                    self._directory, self._measured, self.limit,
                )  # fmt: skip
            self.full = full
        except OSError as error:
            log.warning("cache %s: %s", self._directory, error)
        finally:
            self._busy = False

    def _measure(self) -> int:
        size = allocated(self._directory)
        if size <= self.limit:
            return size
        return evict(
            self._directory,
            self.limit - self.limit // _STEP,
            grace=self._grace,
            index=self._index,
        )
