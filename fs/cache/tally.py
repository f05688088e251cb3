"""What requests to a backend took and brought, sorted as nydusd sorts it.

Counted once a request, or once a leg of a long one, which has just cost a journey through a
network.
"""

from __future__ import annotations

import time

SIZES = ("1K", "4K", "16K", "64K", "128K", "512K", "1M")
"""Ends of the size buckets but the last, which has none."""
_SIZE_ENDS = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 512 << 10, 1 << 20)
_MILLIS_ENDS = (1, 20, 50, 100, 500, 1000, 2000)


def size_bucket(size: int) -> int:
    """0 for less than 1 KiB, … 7 for 1 MiB and more."""
    return sum([size >= end for end in _SIZE_ENDS])


def _latency_bucket(millis: float) -> int:
    return sum([millis > end for end in _MILLIS_ENDS])


class Tally:
    """Of one backend; those that nobody waited for are also counted as `prefetch_…`."""

    def __init__(self) -> None:
        self.reads = 0
        self.errors = 0
        self.amount = 0
        self.millis = 0.0
        self.millis_by_size = [0.0] * 8
        self.reads_by_size = [0] * 8
        self.reads_by_size_and_latency = [[0] * 8 for _ in range(8)]
        self.prefetch_requests = 0
        self.prefetch_amount = 0
        self.prefetch_millis = 0.0
        self.prefetch_began: float | None = None
        self.prefetch_ended: float | None = None
        """By the clock on the wall."""

    def count(
        self, size: int, seconds: float, *, succeeded: bool, unasked: bool, further: bool = False
    ) -> None:
        """One request for `size` bytes has ended, or brought so many `further` bytes."""
        self.reads += not further
        if not succeeded:
            self.errors += 1
            return
        millis = seconds * 1000
        bucket = size_bucket(size)
        self.amount += size
        self.millis += millis
        self.millis_by_size[bucket] += millis
        if not further:
            self.reads_by_size[bucket] += 1
            self.reads_by_size_and_latency[bucket][_latency_bucket(millis)] += 1
        if unasked:
            self._count_prefetch(size, seconds, further)

    def _count_prefetch(self, size: int, seconds: float, further: bool) -> None:
        self.prefetch_ended = time.time()
        if self.prefetch_began is None:
            self.prefetch_began = self.prefetch_ended - seconds
        self.prefetch_requests += not further
        self.prefetch_amount += size
        self.prefetch_millis += seconds * 1000
