"""Waiting for what has to come. How long it takes is no claim of a test.

A test that passes waits as long as it must and no longer, on a machine however busy: the
limit only turns a hang into a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0


def eventually(condition: Callable[[], object], what: str, pause: float = 0.01) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(pause)
