"""Signals as bytes to be read, instead of handlers that may run anywhere."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

#: Those that end a program that does not care.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# These stay as they are: they stop us, tell of broken pipes, or are faults of our own.
_KEPT = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
}


class Interrupted(BaseException):
    """A signal that ends us while there is no container to pass it on to."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """From here on every signal that can be passed on is collected; `reader` can be polled."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._kept_back = b""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in signal.valid_signals() - _KEPT:
            signal.signal(number, lambda *_: None)

    def read(self) -> bytes:
        """The numbers of the signals since the last call."""
        numbers, self._kept_back = self._kept_back, b""
        with suppress(BlockingIOError):
            numbers += os.read(self.reader, 512)
        return numbers

    def await_readable(self, descriptor: int) -> None:
        """Wait for `descriptor`. A signal that ends programs raises Interrupted; others are kept.

        What is already readable wins over a signal.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self.reader, select.POLLIN)
        while descriptor not in dict(poll.poll()):
            numbers = self.read()
            for number in numbers:
                if number in ENDING:
                    raise Interrupted(number)
            self._kept_back += numbers
