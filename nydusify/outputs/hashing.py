"""Bytes on their way out, whose digest and number are known at the end."""

from __future__ import annotations

import hashlib
from typing import Protocol


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class Hashing:
    """Passes bytes on."""

    def __init__(self, sink: Sink) -> None:
        self.size = 0
        self._sink = sink
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        """Whoever closes the sink flushes it."""

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
