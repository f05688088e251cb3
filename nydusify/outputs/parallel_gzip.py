"""A gzip stream that several threads compress: deterministic, and one member for every reader.

The content is cut into blocks of a fixed size; each is deflated with the 32 KiB before it as
its dictionary and ends on a whole byte, so the blocks put together are one deflate stream
(as pigz makes it). What comes out depends on the content alone, not on the threads.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from nydusify.outputs.hashing import Sink

_BLOCK = 1 << 20
_WINDOW = 32 << 10
_LEVEL = 6
_MEMORY = 8
#: No name, no time, made on Unix.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"


class ParallelGzip:
    """Write, then close. Memory holds a few blocks a thread.

    A context, which closes, or after an error abandons.
    """

    def __init__(self, sink: Sink, threads: int | None = None) -> None:
        threads = threads or os.cpu_count() or 1
        self._sink = sink
        self._pool = ThreadPoolExecutor(threads, "gzip")
        self._jobs: deque[Future[bytes]] = deque()
        self._limit = 2 * threads
        self._buffer = bytearray()
        self._window = b""
        self._crc = self._size = 0
        sink.write(_HEADER)

    def __enter__(self) -> ParallelGzip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write(self, data: bytes) -> int:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._buffer += data
        while len(self._buffer) >= _BLOCK:
            self._submit(bytes(self._buffer[:_BLOCK]), last=False)
            del self._buffer[:_BLOCK]
        return len(data)

    def close(self) -> None:
        """The end of the stream; the sink stays open."""
        self._submit(bytes(self._buffer), last=True)
        while self._jobs:
            self._take()
        self._pool.shutdown()
        self._sink.write(struct.pack("<2I", self._crc, self._size & 0xFFFFFFFF))

    def abandon(self) -> None:
        """End the threads; what was written is of no use."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, block: bytes, *, last: bool) -> None:
        self._jobs.append(self._pool.submit(_deflate, block, self._window, last=last))
        self._window = block[-_WINDOW:]
        while len(self._jobs) > self._limit:
            self._take()

    def _take(self) -> None:
        self._sink.write(self._jobs.popleft().result())


def _deflate(block: bytes, window: bytes, *, last: bool) -> bytes:
    dictionary = (window,) if window else ()
    stream = zlib.compressobj(
        _LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, _MEMORY, zlib.Z_DEFAULT_STRATEGY, *dictionary
    )
    data = stream.compress(block)
    return data + stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
