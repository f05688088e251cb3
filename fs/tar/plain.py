"""The headers that nearly all entries have: one block with octal numbers and no extensions.

What is made of them here is what reader.py would make of them, at a third of the cost; whatever
looks otherwise in any way is left to it. Layers have hundreds of thousands of entries, most of
which share owners, modes and times with others.
"""

from __future__ import annotations

import stat
from zlib import adler32

from fs.tar.entry import HARD_LINK, Entry

_KINDS = {
    ord("0"): stat.S_IFREG,
    ord("1"): HARD_LINK,
    ord("2"): stat.S_IFLNK,
    ord("5"): stat.S_IFDIR,
}
_USTAR = b"ustar\0"
#: What may stand behind the digits of a number, and what behind those of the checksum.
_ENDS = b"\0", b" "
_CHECKSUM_END = b"\0 "
_BLANKS = 8 * 0x20
_MODULUS = 65521
#: Values that are remembered.
_MANY = 10_000


class PlainHeaders:
    """`entry` gives the entry of a header block, None for one that takes a closer look."""

    def __init__(self) -> None:
        self._owners: dict[bytes, tuple[int, int, int]] = {}
        self._times: dict[bytes, int] = {}

    def entry(self, header: bytes, start: int) -> Entry | None:
        """`header` are 512 bytes, which lie at `start` in the layer."""
        kind = _KINDS.get(header[156])
        owner = self._owners.get(header[100:124]) or self._owner(header[100:124])
        mtime = self._times.get(header[136:148])
        if mtime is None:
            mtime = self._time(header[136:148])
        if kind is None or owner is None or mtime is None or not _has_its_sum(header):
            return None
        end = header.find(b"\0", 0, 100)
        path = header[: end if end >= 0 else 100]
        if header[257:263] == _USTAR and header[345]:
            if header[508:] == b"tar\0":
                return None
            path = header[345:500].partition(b"\0")[0] + b"/" + path
        size = 0
        if kind == stat.S_IFREG:
            digits = header[124:135]
            if not digits.isdigit() or header[135:136] not in _ENDS:
                return None
            try:
                size = int(digits, 8)
            except ValueError:
                return None
        target = header[157:257].partition(b"\0")[0] if header[157] else b""
        mode, uid, gid = owner
        return Entry(path, kind, mode, uid, gid, mtime, 0, size, size, 0, target, {}, None, start)

    def _owner(self, field: bytes) -> tuple[int, int, int] | None:
        """Mode, uid and gid."""
        numbers = [_octal(field[at : at + 8]) for at in (0, 8, 16)]
        if None in numbers:
            return None
        if len(self._owners) >= _MANY:
            self._owners.clear()
        mode, uid, gid = (number or 0 for number in numbers)
        self._owners[field] = found = mode & 0o7777, uid, gid
        return found

    def _time(self, field: bytes) -> int | None:
        number = _octal(field)
        if number is not None:
            if len(self._times) >= _MANY:
                self._times.clear()
            self._times[field] = number
        return number


def _octal(field: bytes) -> int | None:
    digits = field[:-1]
    if not digits.isdigit() or field[-1:] not in _ENDS:
        return None
    try:
        return int(digits, 8)
    except ValueError:
        return None


def _has_its_sum(header: bytes) -> bool:
    """Whether the bytes add up to the checksum.

    Adler-32 has the sum in its lower half, modulo a number that an error of a few bytes does
    not reach, and takes a tenth of the time.
    """
    digits = header[148:154]
    if not digits.isdigit() or header[154:156] != _CHECKSUM_END:
        return False
    try:
        expected = int(digits, 8)
    except ValueError:
        return False
    found = adler32(header[156:], adler32(header[:148])) & 0xFFFF
    return (expected - _BLANKS + 1) % _MODULUS == found
