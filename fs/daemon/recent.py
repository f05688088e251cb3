"""The last errors of the log, for those who ask a daemon what went wrong."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

_MAX_ERRORS = 500
_MAX_BYTES = 50 << 10


class RecentErrors(logging.Handler):
    """Keeps the newest within both limits; counts all."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.setFormatter(logging.Formatter("%(asctime)s - %(message)s"))
        self._kept: deque[str] = deque()
        self._size = 0
        self._total = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)[:_MAX_BYTES]
        except Exception:
            self.handleError(record)
            return
        self._total += 1
        self._kept.append(text)
        self._size += len(text)
        while len(self._kept) > _MAX_ERRORS or self._size > _MAX_BYTES:
            self._size -= len(self._kept.popleft())

    def to_json(self) -> dict[str, Any]:
        """nydusd's daemon/events."""
        return {
            "max_errors": _MAX_ERRORS,
            "total_errors": self._total,
            "max_size": _MAX_BYTES,
            "total_size": self._size,
            "errors": list(self._kept),
        }
