"""The bytes of a layer, decompressed, once from front to back.

Memory stays at a few blocks whatever the data claims to be: gzip and zstd are
decoded block by block, and a zstd frame that asks for a huge window is refused.
What a layer is compressed with is told by its first bytes, as containerd does;
media types are too often wrong.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from gzip import BadGzipFile
from typing import Any, Protocol

import zstandard
from isal import igzip, igzip_lib

from fs.format.errors import FormatError

_BLOCK = 1 << 20
#: Blocks that are decoded before they are asked for.
_AHEAD = 4
_RAW_BLOCK = 256 << 10
_MAX_ZSTD_WINDOW = 128 << 20

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one byte from 0x50 to 0x5f
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}

_BROKEN: Any = (BadGzipFile, EOFError, zlib.error, igzip_lib.error, zstandard.ZstdError)


class Readable(Protocol):
    """`read` gives up to `size` bytes, none only at the end."""

    def read(self, size: int, /) -> bytes: ...


class LayerStream:
    """The decompressed bytes of `raw`. `offset` counts what was taken so far.

    The next blocks are decoded (and hashed) in a thread of `pool`, which has just one, while
    the caller works on this one. `is_gzip`: they were compressed with gzip. `decode` gives so
    many bytes of content, if others than ours are to.
    """

    def __init__(
        self,
        raw: Readable,
        name: str,
        pool: Executor,
        decode: Callable[[int], bytes] | None = None,
    ) -> None:
        self.name = name
        self.offset = 0
        self._pool = pool
        self._hash = hashlib.sha256()
        self.is_gzip = False
        if decode is None:
            decode, self.is_gzip = _decoder(raw, name)
        self._decode = decode
        self._block = b""
        self._at = 0
        self._ahead = deque(pool.submit(self._produce) for _ in range(_AHEAD))

    def take(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the layer."""
        start = self._at
        end = start + size
        if end > len(self._block):
            return self._take_across(size)
        self._at = end
        self.offset += size
        return self._block[start:end]

    def take_exactly(self, size: int) -> bytes:
        taken = self.take(size)
        if len(taken) != size:
            raise FormatError("tar archive ends in the middle of an entry", self.where())
        return taken

    def skip(self, size: int) -> None:
        end = self._at + size
        if end <= len(self._block):
            self._at = end
            self.offset += size
            return
        while size > 0:
            size -= len(self.take_exactly(min(size, _BLOCK)))

    def drain(self) -> str:
        """Read to the end; the digest of everything that was decompressed (the diff ID)."""
        while self.take(_BLOCK):
            pass
        return f"sha256:{self._hash.hexdigest()}"

    def where(self) -> str:
        return f"{self.name}, offset {self.offset}"

    def stop(self) -> None:
        """Wait for the thread, so that the raw stream may be closed; its errors do not matter."""
        for block in self._ahead:
            if not block.cancel():
                block.exception()

    def _take_across(self, size: int) -> bytes:
        parts = [self._block[self._at :]]
        missing = size - len(parts[0])
        while missing > 0:
            self._block = self._ahead[0].result()
            if not self._block:
                break
            self._ahead.popleft()
            self._ahead.append(self._pool.submit(self._produce))
            parts.append(self._block[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        else:
            self.offset += size
            return b"".join(parts)
        self._at = 0
        self.offset += size - missing
        return b"".join(parts)

    def _produce(self) -> bytes:
        try:
            block = self._decode(_BLOCK)
        except _BROKEN as error:
            raise FormatError(f"layer does not decompress: {error}", self.name) from error
        self._hash.update(block)
        return block


class _Rewound(io.RawIOBase):
    """`raw` with the bytes that were looked at put back in front."""

    def __init__(self, head: bytes, raw: Readable) -> None:
        self._head = head
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as in typeshed: any writable buffer
        data = self._head or self._raw.read(len(buffer))
        taken = min(len(data), len(buffer))
        buffer[:taken] = data[:taken]
        self._head = data[taken:]
        return taken


def _decoder(raw: Readable, name: str) -> tuple[Callable[[int], bytes], bool]:
    """What gives so many bytes of content, and whether that was compressed with gzip."""
    head = b""
    while len(head) < 6 and (more := raw.read(6 - len(head))):
        head += more
    rewound = io.BufferedReader(_Rewound(head, raw), _RAW_BLOCK)
    if head.startswith(_GZIP):
        opened: Any = igzip.IGzipFile
        return opened(fileobj=rewound, mode="rb").read, True
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        frames = decompressor.stream_reader(rewound, read_size=_RAW_BLOCK, read_across_frames=True)
        return frames.read, False
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            raise FormatError(f"layers compressed with {kind} are not supported", name)
    return rewound.read, False
