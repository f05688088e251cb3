"""Bounds-checked reads from a buffer: no reader here touches bytes in any other way.

Every read names what it reads, so that a value pointing outside of the
buffer becomes one `FormatError` with the place, and never an IndexError, a
struct.error or a short result.
"""

from __future__ import annotations

import mmap
from struct import Struct
from typing import Any

from fs.format.errors import FormatError

Buffer = bytes | bytearray | memoryview | mmap.mmap


class CheckedBuffer:
    """A read-only view of `buffer`; `name` is what error messages call it."""

    __slots__ = ("name", "size", "view")

    def __init__(self, buffer: Buffer, name: str) -> None:
        self.name = name
        self.view = memoryview(buffer).cast("B").toreadonly()
        self.size = len(self.view)

    def error(self, what: str, offset: int | None = None) -> FormatError:
        """The error to raise for `what`, found at byte `offset`."""
        where = self.name if offset is None else f"{self.name} at byte {offset}"
        return FormatError(what, where)

    def check(self, offset: int, length: int, what: str) -> None:
        """FormatError unless `length` bytes at `offset` lie inside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.error(
                f"{what} of {length} bytes reaches past the end ({self.size} bytes)", offset
            )

    def slice(self, offset: int, length: int, what: str) -> memoryview:
        """`length` bytes at `offset`, without copying."""
        self.check(offset, length, what)
        return self.view[offset : offset + length]

    def unpack(self, record: Struct, offset: int, what: str) -> tuple[Any, ...]:
        """The fields of one record at `offset`."""
        if offset < 0 or offset + record.size > self.size:
            self.check(offset, record.size, what)
        return record.unpack_from(self.view, offset)

    def close(self) -> None:
        """Let go of the buffer, so that an mmap under it can be closed."""
        self.view.release()
