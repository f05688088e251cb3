"""Between the user and a running container: signals and keys go in, output and its end come out."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from runner import terminal
from runner.init import exit_code
from runner.process import Started
from runner.signals import Signals

_PIECE = 1 << 16


def supervise(started: Started, signals: Signals, *, interactive: bool) -> int:
    """Wait for the container's end and return its exit code, passing on every signal till then."""
    if started.console is None:
        _wait(started.pid, signals, None)
    else:
        with terminal.RawMode(0 if interactive else -1):
            _wait(started.pid, signals, _Relay(started.console, interactive))
        os.close(started.console)
    return exit_code(os.waitpid(started.pid, 0)[1])


class _Relay:
    """Bytes between our terminal and the container's."""

    def __init__(self, console: int, interactive: bool) -> None:
        self.console = console
        self._keys = 0 if interactive else None
        self._pending = b""
        os.set_blocking(console, False)

    def wanted(self) -> list[tuple[int, int]]:
        """Descriptors and events to wait for; no keys are read while some are not yet taken."""
        writing = select.POLLOUT if self._pending else 0
        events = [(self.console, select.POLLIN | writing)]
        if self._keys is not None and not self._pending:
            events.append((self._keys, select.POLLIN))
        return events

    def move(self, ready: dict[int, int]) -> None:
        if self._keys is not None and self._keys in ready:
            self._pending = os.read(self._keys, _PIECE)
            if not self._pending:
                self._keys = None
        if self._pending:
            with suppress(BlockingIOError, OSError):
                self._pending = self._pending[os.write(self.console, self._pending) :]
        if ready.get(self.console, 0) & (select.POLLIN | select.POLLHUP):
            self.show()

    def show(self) -> bool:
        """Write out one piece of the container's output; whether there was any."""
        try:
            piece = os.read(self.console, _PIECE)
        except OSError:  # EAGAIN: none now; EIO: nobody has the terminal open
            return False
        while piece:
            piece = piece[os.write(1, piece) :]
        return True


def _wait(pid: int, signals: Signals, relay: _Relay | None) -> None:
    """Return when process `pid` has ended and all it wrote to its terminal is out."""
    process = os.pidfd_open(pid)
    try:
        ended = False
        while not ended:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.register(signals.reader, select.POLLIN)
            for descriptor, events in relay.wanted() if relay else ():
                poll.register(descriptor, events)
            ready = dict(poll.poll())
            ended = process in ready
            _pass_on(pid, signals.read(), relay)
            if relay and not ended:
                relay.move(ready)
        while relay and relay.show():
            pass
    finally:
        os.close(process)


def _pass_on(pid: int, numbers: bytes, relay: _Relay | None) -> None:
    for number in numbers:
        if number == signal.SIGWINCH and relay:
            terminal.copy_size(0, relay.console)
        elif number != signal.SIGCHLD:
            os.kill(pid, number)  # not reaped yet, so it is still the container
