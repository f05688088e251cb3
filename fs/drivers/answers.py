"""Answers on their way to the kernel.

One that nobody waits for any more is refused by the kernel, and so is every one after
the connection's end: neither is of interest to whoever answers.
"""

from __future__ import annotations

import errno
import logging
import os

from fs.cache.blob import Data
from fs.drivers import wire
from fs.drivers.errnos import errno_of

log = logging.getLogger(__name__)

_NOBODY_WAITS = (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED)
_HEADER = wire.OUT_HEADER.size


class Answers:
    """`descriptor` is that of the connection."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def give(self, unique: int, body: Data) -> None:
        header = wire.OUT_HEADER.pack(_HEADER + len(body), 0, unique)
        try:
            os.writev(self._descriptor, (header, body))
        except OSError as error:
            self._failed(error)

    def refuse(self, unique: int, number: int) -> None:
        """Answer with an errno."""
        self.pass_on(wire.answer(unique, error=number))

    def fail(self, unique: int, error: Exception) -> None:
        self.refuse(unique, errno_of(error))

    def pass_on(self, whole: bytes) -> None:
        """An answer that somebody else has made."""
        try:
            os.write(self._descriptor, whole)
        except OSError as error:
            self._failed(error)

    @staticmethod
    def _failed(error: OSError) -> None:
        if error.errno not in _NOBODY_WAITS:
            log.error("an answer was not taken: %s", error.strerror)
