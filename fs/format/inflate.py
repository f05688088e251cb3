"""Decodes a slice of a gzip file, entered at a restart point rather than at its start.

A slice begins with a deflate block, which need not begin with a byte. No binding of
zlib for Python can feed single bits, so the bits before the first whole byte are led in by
empty deflate blocks whose length makes them end where the byte ends: blocks with fixed codes
have 10 bits, one with codes of its own has 91, so every length there is can be made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from isal import isal_zlib

from fs.format.codec import GZIP_ERROR, Data
from fs.format.errors import FormatError

_RAW = -15
_GZIP = 31
#: Checksum and length behind the deflate stream of a member.
_TRAILER = 8
#: Bytes fed at a time. A member that ends hands back what it was fed too much, as a copy; so
#: with a whole slice at a time, one of many tiny members would take hours.
_FED = 16 << 10


class _Bits(NamedTuple):
    """`value` holds `length` bits, the first one lowest."""

    value: int
    length: int

    def __add__(self, other: object) -> _Bits:
        assert isinstance(other, _Bits)
        return _Bits(self.value | other.value << self.length, self.length + other.length)


def _code(bits: str) -> _Bits:
    """A Huffman code, which is stored with its highest bit first."""
    return _Bits(int(bits[::-1], 2), len(bits))


#: Not the last block; fixed codes; end of block, which is code 0000000.
_EMPTY_FIXED = _Bits(0b010, 3) + _Bits(0, 7)


def _empty_dynamic() -> _Bits:
    """An empty block that defines codes for 0 and for the end of block, and one distance."""
    block = _Bits(0b100, 3)  # not the last block; codes follow
    block += _Bits(0, 5) + _Bits(0, 5) + _Bits(14, 4)  # 257 literals, 1 distance, 18 lengths
    for number in range(18):  # the order of RFC 1951: number 2 is length 18, number 17 is length 1
        block += _Bits(number in (2, 17), 3)
    one, zeros = _code("0"), _code("1")
    block += one  # literal 0 has one bit
    block += zeros + _Bits(138 - 11, 7) + zeros + _Bits(117 - 11, 7)  # 255 have none
    block += one + one  # the end of block has one bit, and the distance
    return block + _code("1")


def _leads() -> list[_Bits]:
    """By length modulo 8, 0 to 7."""
    found = {0: _Bits(0, 0)}
    for start in (_Bits(0, 0), _empty_dynamic()):
        lead = start
        for _ in range(4):
            found.setdefault(lead.length % 8, lead)
            lead += _EMPTY_FIXED
    return [found[length] for length in range(8)]


_LEADS = _leads()


def _led_in(data: Data, byte: int, bits: int) -> bytes:
    """`data` with the `bits` highest bits of `byte` in front."""
    whole = _LEADS[-bits % 8] + _Bits(byte >> (8 - bits), bits)
    return whole.value.to_bytes(whole.length // 8, "little") + data


def inflate(data: Data, size: int, dictionary: Data, byte: int, bits: int, where: str) -> bytes:
    """The first `size` bytes that a slice decodes to; FormatError, at `where`, if it has fewer.

    `byte` and `bits` are those of `contexts.ZranContext`. Whatever `data` claims, no more than
    `size` bytes are allocated.
    """
    if not size:
        return b""
    try:
        return _inflate(data, size, dictionary, byte, bits, where)
    except GZIP_ERROR as error:
        raise FormatError(f"slice of a gzip file does not decode: {error}", where) from error


def _inflate(data: Data, size: int, dictionary: Data, byte: int, bits: int, where: str) -> bytes:
    rest = memoryview(_led_in(data, byte, bits) if bits else data)
    stream: Any = isal_zlib.decompressobj(wbits=_RAW, zdict=bytes(dictionary))
    parts: list[bytes] = []
    got, at, trailer = 0, 0, _TRAILER
    while got < size:
        fed = rest[at : at + _FED]
        if not fed:
            raise FormatError(f"slice of a gzip file holds {got} bytes, expected {size}", where)
        at += len(fed)
        parts.append(bytes(stream.decompress(fed, size - got)))
        got += len(parts[-1])
        if stream.eof:
            at += trailer - len(stream.unused_data)
            stream, trailer = isal_zlib.decompressobj(wbits=_GZIP), 0
    return parts[0] if len(parts) == 1 else b"".join(parts)
