"""Ctrl-C and SIGTERM: while there is nothing to clear up they end us at once, later by unwinding.

An exception that a signal handler raises is lost if Python happens to run a callback,
as it often does while it imports. So only the work itself has a handler that raises,
and whoever shows its progress is asked to raise again what was lost.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nydusify.report import Progress

Handler = Callable[[int, FrameType | None], object] | signal.Handlers
SIGNALLED = 128  # as shells have it, plus the signal's number
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Ends the work from within; temporary files go on the way up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Signals have their default effect."""
    with _handlers(signal.SIG_DFL):
        yield


class Unwinding:
    """While entered, a signal raises Interrupted; a second one does not disturb the clearing up.

    Passes `progress` on, and raises at its calls as well once a signal has come.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._number = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        with _handlers(self._interrupt):
            yield

    def step(self, name: str, size: int) -> None:
        self._check()
        self._progress.step(name, size)

    def advance(self, size: int) -> None:
        self._check()
        self._progress.advance(size)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._number:
            self._number = number
            self._check()

    def _check(self) -> None:
        if self._number:
            raise Interrupted(self._number)


@contextmanager
def _handlers(handler: Handler) -> Iterator[None]:
    """Signals that our caller has us ignore stay ignored."""
    old = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number, previous in old.items():
            if previous is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
