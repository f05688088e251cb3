"""A blob that is asked for before anybody can read it.

What a start needs is named by the manifest, and can be on its way while the bootstrap, which says
what its bytes mean, still is. They are verified by who reads them, as those of any range. Little
of it is kept here: the rest waits at the server, and what nobody takes soon is given up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from fs.format.errors import Failure
from fs.registry.client import RegistryClient
from fs.registry.transport import STEP, Answer

Opened = tuple[RegistryClient, Answer]

#: What is received before somebody reads it (bytes), and how long that is waited for (seconds).
_MOST = 1 << 20
_PATIENCE = 10.0
#: What is small and needed first is to be on its way before (seconds).
_AFTER_YOU = 0.005


class HeadStart:
    """Of a blob of `size` bytes; `ask` gives who answers, and the answer from the first byte on.

    Thread-safe. It is taken once, or closed.
    """

    def __init__(self, size: int, ask: Callable[[], Opened], patience: float = _PATIENCE) -> None:
        self._size = size
        self._ask = ask
        self._patience = patience
        self._pieces: list[bytes] = []
        self._rest: Opened | None = None
        self._wanted = threading.Event()
        self._received = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="head start", daemon=True).start()

    def suits(self, offset: int, length: int) -> bool:
        """Whether a reader of this range wants nearly all of what was asked for."""
        return offset == 0 and self._size // 2 < length <= self._size

    def take(self) -> tuple[list[bytes], Opened | None]:
        """What has come, and who has what follows: None where that is to be asked for."""
        self._wanted.set()
        self._received.wait()
        return self._given()

    def close(self) -> None:
        """Nobody will take it; what is still to come is given up by the thread."""
        self._size = 0
        self._wanted.set()
        if self._received.is_set():
            self._give_up()

    def _run(self) -> None:
        try:
            with suppress(Failure):  # who takes it asks again, and hears why
                self._receive()
        finally:
            self._received.set()
        if not self._wanted.wait(self._patience) or not self._size:
            self._give_up()

    def _receive(self) -> None:
        self._wanted.wait(_AFTER_YOU)
        opened = self._ask()
        count = 0
        try:
            while count < min(_MOST, self._size) and not self._wanted.is_set():
                piece = opened[1].read(min(STEP, self._size - count))
                if not piece:
                    break
                self._pieces.append(piece)
                count += len(piece)
        except Failure:
            opened[1].close()
            raise
        self._rest = opened

    def _given(self) -> tuple[list[bytes], Opened | None]:
        with self._lock:
            given = self._pieces, self._rest
            self._pieces, self._rest = [], None
        return given

    def _give_up(self) -> None:
        _, rest = self._given()
        if rest is not None:
            rest[1].close()
