"""PAX extended headers: records of `LENGTH KEY=VALUE`, and the keys that layers use."""

from __future__ import annotations

import re
from typing import NamedTuple

from fs.format.errors import FormatError

_XATTR = b"SCHILY.xattr."
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?\Z")

#: What Linux lets a file system store. `trusted.` is left out as containerd leaves it
#: out: from an archive it could only serve to be taken for overlayfs's own marks.
_XATTR_PREFIXES = (b"user.", b"security.")
_XATTR_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")
_MAX_XATTR_NAME = 255
_MAX_XATTR_VALUE = 64 << 10


class PaxRecords(NamedTuple):
    """The last value of each key; `sparse_pairs` are the repeated keys of sparse format 0.0."""

    values: dict[bytes, bytes]
    sparse_pairs: list[tuple[bytes, bytes]]


def parse_pax(content: bytes, where: str) -> PaxRecords:
    """FormatError unless `content` is whole records; an empty value takes a key back."""
    records = PaxRecords({}, [])
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 20)
        length = content[at:space] if space > 0 else b""
        if not length.isdigit():
            raise FormatError("PAX record without a length", where)
        end = at + int(length)
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        whole = space < end <= len(content) and content[end - 1] == 0x0A
        if not whole or not equals or not key:
            raise FormatError("PAX record is malformed", where)
        if key in _SPARSE_PAIR:
            records.sparse_pairs.append((key, value))
        elif value or key.startswith(_XATTR):
            records.values[key] = value
        else:
            records.values.pop(key, None)
        at = end
    return records


def parse_pax_time(text: bytes, where: str) -> tuple[int, int]:
    """Seconds and nanoseconds; times before 1970 are 0, as containerd has them."""
    match = _TIME.match(text)
    if not match:
        raise FormatError(f"PAX time is not a number: {text[:40]!r}", where)
    if match[1]:
        return 0, 0
    return int(match[2]), int((match[3] or b"")[:9].ljust(9, b"0"))


def parse_pax_xattrs(values: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The extended attributes among the records, as far as they can be stored."""
    start = len(_XATTR)
    return storable_xattrs(
        {key[start:]: value for key, value in values.items() if key.startswith(_XATTR)}
    )


def storable_xattrs(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Those that a file system would take from an archive; containerd drops the rest too."""
    return {name: value for name, value in xattrs.items() if _is_storable(name, value)}


def _is_storable(name: bytes, value: bytes) -> bool:
    known = name in _XATTR_NAMES or (
        name.startswith(_XATTR_PREFIXES) and name not in _XATTR_PREFIXES
    )
    return known and len(name) <= _MAX_XATTR_NAME and len(value) <= _MAX_XATTR_VALUE
