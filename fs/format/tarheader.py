"""The tar headers of a blob file. They FOLLOW what they describe, so a blob is read from its end.

Nothing is padded to 512 bytes. Only what Nydus writes is written or accepted: GNU headers of
regular files that carry a name and a size.
"""

from __future__ import annotations

from fs.format.buffer import Buffer
from fs.format.errors import FormatError

SIZE = 512
#: Sizes from here on are written in base 256, as GNU tar does.
_BINARY_FROM = 8**11
_BINARY_MARK = 0x80
_SIZE_FIELD = slice(124, 136)
_SUM = slice(148, 156)


def pack(name: str, size: int) -> bytes:
    """The header to put behind `size` bytes called `name`."""
    header = bytearray(SIZE)
    header[0 : len(name)] = name.encode("ascii")
    header[_SIZE_FIELD] = _pack_size(size)
    header[136:148] = b"00000000000\0"
    header[156:157] = b"0"
    header[257:265] = b"ustar  \0"
    header[_SUM] = b"%07o\0" % _checksum(header)
    return bytes(header)


def unpack(header: Buffer, where: str) -> tuple[str, int]:
    """Name and size in a header; FormatError if its 512 bytes are none."""
    data = bytes(header)
    if len(data) != SIZE or data[257:262] != b"ustar":
        raise FormatError("no tar header where one is expected", where)
    try:
        checksum, size = _octal(data[_SUM]), _unpack_size(data[_SIZE_FIELD])
    except ValueError as error:
        raise FormatError("malformed number in a tar header", where) from error
    if checksum != _checksum(data):
        raise FormatError("tar header with a wrong checksum", where)
    return data[:100].rstrip(b"\0").decode("ascii", "replace"), size


def _pack_size(size: int) -> bytes:
    if size < _BINARY_FROM:
        return b"%011o\0" % size
    return bytes([_BINARY_MARK]) + size.to_bytes(11, "big")


def _unpack_size(field: bytes) -> int:
    if field[0] == _BINARY_MARK:
        return int.from_bytes(field[1:], "big")
    return _octal(field)


def _octal(field: bytes) -> int:
    digits = field.rstrip(b"\0 ")
    if not digits.isdigit():
        raise ValueError(field)
    return int(digits, 8)


def _checksum(header: bytes | bytearray) -> int:
    return sum(header) - sum(header[_SUM]) + 8 * ord(" ")
