"""When a started program is ready: it has ended, said a line, answered on a port, or run a time.

Waits without threads: one loop over the program's output that also tries the port.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from typing import NamedTuple

from fs.format.errors import Failure

_POLL = 0.01  # seconds
_CONNECT = 1.0
_ANSWER = 64 << 10
#: Of the output, this much is kept to look for a line in, and to tell of.
_KEEP = 1 << 20


class NotReadyError(Failure):
    """The program ended, or its time ran out, before it was ready."""


class Exit(NamedTuple):
    """Ended with exit code 0, having printed a match of the pattern."""

    pattern: str = ""


class Line(NamedTuple):
    """A line with a match of the pattern, on either output."""

    pattern: str


class Port(NamedTuple):
    """A TCP port of loopback that accepts, and answers `ask` with something with `answer` in it."""

    number: int
    ask: bytes = b""
    answer: bytes = b""


class Elapsed(NamedTuple):
    """So many seconds."""

    seconds: float


Ready = Exit | Line | Port | Elapsed


class Outcome(NamedTuple):
    """Seconds since the start; `first_output` is None if nothing was printed until ready."""

    first_output: float | None
    ready: float
    output: str


class Program:
    """A program whose outputs come in one pipe. It is ended when the context is left."""

    def __init__(self, command: list[str], stdin: bytes = b"", *, hold: bool = False) -> None:
        """With `hold` the standard input stays open until the program is ended."""
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._output = bytearray()
        self._first: float | None = None
        self._open = True
        assert self.process.stdin
        self.process.stdin.write(stdin)
        self.process.stdin.flush()
        if not hold:
            self.process.stdin.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait_until(self, ready: Ready, timeout: float) -> Outcome:
        """NotReadyError if it ends or fails before, or is not ready in `timeout` seconds."""
        while True:
            over = self._read(_POLL)
            if self._is_ready(ready, over):
                return Outcome(self._first, self._since(), self.output)
            if over:
                code = self.process.wait()
                raise NotReadyError(f"ended with {code} before it was ready{self._said()}")
            if self._since() > timeout:
                raise NotReadyError(f"not ready after {timeout:g} s{self._said()}")

    @property
    def output(self) -> str:
        return self._output.decode(errors="replace")

    def end(self, patience: float = 30.0) -> int:
        """Ask it to end, and make it end after `patience` seconds; its exit code."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin
        assert stdout
        if not stdin.closed:
            stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
        deadline = time.monotonic() + patience
        while not stdout.closed and not self._read(0.1):
            if time.monotonic() > deadline:
                self.process.kill()
        stdout.close()
        return self.process.wait()

    def _since(self) -> float:
        return time.monotonic() - self._started

    def _read(self, seconds: float) -> bool:
        """Take in what there is, waiting a little; whether the output is closed."""
        assert self.process.stdout
        descriptor = self.process.stdout.fileno()
        if self._open and select.select([descriptor], [], [], seconds)[0]:
            data = os.read(descriptor, 1 << 16)
            if self._first is None and data:
                self._first = self._since()
            self._output += data
            del self._output[:-_KEEP]
            self._open = bool(data)
        return not self._open

    def _is_ready(self, ready: Ready, over: bool) -> bool:
        if isinstance(ready, Elapsed):
            return self._since() >= ready.seconds
        if isinstance(ready, Port):
            return _answers(ready)
        found = re.search(ready.pattern, self.output, re.MULTILINE) is not None
        if isinstance(ready, Exit):
            return over and self.process.wait() == 0 and found
        return found

    def _said(self) -> str:
        tail = self.output.strip()[-500:]
        return f"; it said: {tail}" if tail else ""


def _answers(port: Port) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port.number), _CONNECT) as connection:
            if not port.ask:
                return True
            connection.sendall(port.ask)
            answer = bytearray()
            while port.answer not in answer and len(answer) < _ANSWER:
                data = connection.recv(4096)
                if not data:
                    return False
                answer += data
            return port.answer in answer
    except OSError:
        return False
