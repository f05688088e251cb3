"""Extended attributes behind an inode.

A 12-byte header, then entries padded to 4 bytes; well-known prefixes of names
are numbers. Attributes shared between inodes are not supported, as in Nydus. See docs/format.md,
"Extended attributes".
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from fs.format.errors import FormatError

HEADER_SIZE = 12
_UNIT = 4
_MAX_COUNT = 0xFFFF
_VALUE_MAX = 0xFFFF
_NAME_MAX = 255

# name filter, shared count
_HEADER = Struct("<IB7x")
# name length, prefix index, value size
_ENTRY = Struct("<BBH")
assert _HEADER.size == HEADER_SIZE
assert _ENTRY.size == _UNIT

_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
#: Prefixes that are whole names.
_EXACT = (2, 3)


def size_of(count: int) -> int:
    """Bytes of the attributes of an inode whose xattr_icount is `count`."""
    return HEADER_SIZE + _UNIT * (count - 1) if count else 0


def count_of(size: int) -> int:
    """The xattr_icount for `size` bytes as `pack` makes them."""
    return (size - HEADER_SIZE) // _UNIT + 1 if size else 0


def pack(xattrs: Mapping[bytes, bytes], where: str) -> bytes:
    """`xattrs` as they stand behind an inode, sorted by name; b"" if there are none."""
    if not xattrs:
        return b""
    parts = [_HEADER.pack(0, 0)]
    size = HEADER_SIZE
    for name in sorted(xattrs):
        entry = _pack_entry(name, xattrs[name], where)
        size += len(entry)
        parts.append(entry)
    if count_of(size) > _MAX_COUNT:
        raise FormatError(f"{size} bytes of extended attributes", where)
    return b"".join(parts)


def _pack_entry(name: bytes, value: bytes, where: str) -> bytes:
    index, suffix = _split(name, where)
    if len(name) > _NAME_MAX or len(value) > _VALUE_MAX:
        raise FormatError(
            f"extended attribute {name[:40]!r} is too long ({len(name)}, {len(value)} bytes)", where
        )
    entry = _ENTRY.pack(len(suffix), index, len(value)) + suffix + value
    return entry + bytes(-len(entry) % _UNIT)


def _split(name: bytes, where: str) -> tuple[int, bytes]:
    for index, prefix in _PREFIXES.items():
        if index in _EXACT:
            if name == prefix:
                return index, b""
        elif name.startswith(prefix) and len(name) > len(prefix):
            return index, name[len(prefix) :]
    raise FormatError(f"extended attribute {name[:40]!r} has no known prefix", where)


def unpack(data: memoryview, where: str) -> dict[bytes, bytes]:
    """The attributes in the `size_of(count)` bytes behind an inode."""
    _filter, shared = _HEADER.unpack_from(data)
    if shared:
        raise FormatError("shared extended attributes are not supported", where)
    found: dict[bytes, bytes] = {}
    offset = HEADER_SIZE
    while offset < len(data):
        name_length, index, value_size = _ENTRY.unpack_from(data, offset)
        name_start = offset + _UNIT
        value_start = name_start + name_length
        end = value_start + value_size
        if end > len(data):
            raise FormatError("an extended attribute reaches past its inode's", where)
        name = _name(index, bytes(data[name_start:value_start]), where)
        if name in found:
            raise FormatError(f"extended attribute {name!r} twice", where)
        found[name] = bytes(data[value_start:end])
        offset = end + -end % _UNIT
    return found


def _name(index: int, suffix: bytes, where: str) -> bytes:
    prefix = _PREFIXES.get(index)
    if prefix is None or b"\0" in suffix or bool(suffix) == (index in _EXACT):
        raise FormatError(f"extended attribute with prefix {index} and name {suffix!r}", where)
    return prefix + suffix
