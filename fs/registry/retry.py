"""The one retry policy: temporary faults only, with jitter, and as the server asks.

What is temporary is decided where the fault is seen, by raising TemporaryFault;
this module only counts, waits and gives up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fs.format.errors import UnreachableError

Result = TypeVar("Result")

_TEMPORARY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_temporary_status(status: int) -> bool:
    return status in _TEMPORARY_STATUS


class TemporaryFault(UnreachableError):
    """Trying again may help; `retry_after` is the server's wish in seconds, if it has one."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class RetryPolicy:
    """`attempts` in all, waits of `base`, 2·`base`, … up to `longest` seconds, each jittered.

    A server's Retry-After is honoured up to `longest_asked` seconds.
    """

    attempts: int = 5
    base: float = 0.3
    longest: float = 8.0
    longest_asked: float = 60.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def run(self, operation: Callable[[], Result]) -> Result:
        """`operation()`, again after each TemporaryFault; the last fault is raised."""
        for attempt in range(1, self.attempts):
            try:
                return operation()
            except TemporaryFault as fault:
                self.sleep(self.delay(attempt, fault.retry_after))
        return operation()

    def delay(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds to wait after the `attempt`-th failure (counted from 1)."""
        backoff = min(self.longest, self.base * 2.0 ** (attempt - 1))
        jittered = backoff * (0.5 + self.jitter() / 2)
        if retry_after is None:
            return jittered
        return max(jittered, min(retry_after, self.longest_asked))
