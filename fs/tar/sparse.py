"""The maps of sparse files in tar: GNU's old format, and PAX formats 0.0, 0.1 and 1.0.

A map is a list of (offset, length) of data; it must ascend, not overlap, and lie
inside the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fs.format.errors import FormatError
from fs.tar.entry import Segments
from fs.tar.pax import PaxRecords

_BLOCK = 512
_MAX_SEGMENTS = 1 << 20

_OLD_MAP, _OLD_COUNT, _OLD_EXTENDED, _OLD_SIZE = 386, 4, 482, 483
_EXTENSION_COUNT, _EXTENSION_EXTENDED = 21, 504


def gnu_segments(
    header: bytes,
    next_block: Callable[[], bytes],
    number: Callable[[bytes, str, str], int],
    where: str,
) -> tuple[Segments, int]:
    """Old GNU format: four pairs in the header, 21 in each block that follows it."""
    size = number(header[_OLD_SIZE : _OLD_SIZE + 12], "size", where)
    flat: list[int] = []
    block, at, count, extended = header, _OLD_MAP, _OLD_COUNT, header[_OLD_EXTENDED]
    while True:
        for start in range(at, at + 24 * count, 24):
            if not block[start]:
                break
            flat.append(number(block[start : start + 12], "sparse offset", where))
            flat.append(number(block[start + 12 : start + 24], "sparse length", where))
        if not extended:
            return _checked(flat, size, where), size
        _check_count(len(flat) // 2, where)
        block, at, count = next_block(), 0, _EXTENSION_COUNT
        extended = block[_EXTENSION_EXTENDED]


def pax_segments(records: PaxRecords, where: str) -> tuple[Segments, int]:
    """PAX 0.1 has the map in one record, 0.0 in a record for each number."""
    values = records.values
    size = _decimal(values[b"GNU.sparse.size"], where)
    if b"GNU.sparse.map" in values:
        texts = values[b"GNU.sparse.map"].split(b",")
    else:
        texts = [value for _, value in records.sparse_pairs]
        wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        if any(key != wanted[i % 2] for i, (key, _) in enumerate(records.sparse_pairs)):
            raise FormatError("sparse map is out of order", where)
    return _checked([_decimal(text, where) for text in texts], size, where), size


def pax_segments_in_data(
    values: dict[bytes, bytes], read: Callable[[int], bytes], where: str
) -> tuple[Segments, int]:
    """PAX 1.0: the map stands before the data as lines, filled up to whole blocks."""
    size = _decimal(values.get(b"GNU.sparse.realsize", b""), where)
    lines = _Lines(read, where)
    count = lines.number()
    _check_count(count, where)
    return _checked([lines.number() for _ in range(2 * count)], size, where), size


class _Lines:
    """Decimal numbers, one a line, from content that is read block by block."""

    def __init__(self, read: Callable[[int], bytes], where: str) -> None:
        self._read = read
        self._where = where
        self._text = b""

    def number(self) -> int:
        line, newline, rest = self._text.partition(b"\n")
        while not newline:
            if len(line) > 20:
                raise FormatError("sparse map is malformed", self._where)
            self._text += self._read(_BLOCK)
            line, newline, rest = self._text.partition(b"\n")
        self._text = rest
        return _decimal(line, self._where)


def _decimal(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise FormatError(f"sparse map holds {text[:40]!r}", where)
    return int(text)


def _check_count(count: int, where: str) -> None:
    if count > _MAX_SEGMENTS:
        raise FormatError(f"sparse map with more than {_MAX_SEGMENTS} pieces", where)


def _checked(flat: Sequence[int], size: int, where: str) -> Segments:
    if len(flat) % 2 or not 0 <= size < 1 << 63:
        raise FormatError("sparse map is malformed", where)
    _check_count(len(flat) // 2, where)
    segments = []
    end = 0
    for offset, length in zip(flat[::2], flat[1::2], strict=True):
        if offset < end or length < 0 or offset + length > size:
            raise FormatError("sparse map is out of order or outside of the file", where)
        end = offset + length
        if length:
            segments.append((offset, length))
    return segments
