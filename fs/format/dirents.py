"""Directory data: blocks of records followed by names, sorted bytewise over the whole directory.

Every block stands alone: all its 12-byte records, then all its names, then a
gap of zeros; so a name is found by a binary search over blocks and then within one.
See docs/format.md, "Directories".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from struct import Struct
from typing import NamedTuple

from fs.format.erofs import DIRENT, DIRENT_SIZE, FILE_TYPE_MAX, NAME_MAX
from fs.format.errors import FormatError

#: The places of the names of two records, one after the other.
_TWO_NAMES = Struct("<8xH10xH2x")
assert _TWO_NAMES.size == 2 * DIRENT_SIZE


def is_allowed_name(name: bytes) -> bool:
    """Whether `name` can stand in a directory: 1 to 255 bytes without "/" and NUL."""
    return 0 < len(name) <= NAME_MAX and b"/" not in name and b"\0" not in name


class DirRecord(NamedTuple):
    nid: int
    name_offset: int
    type: int


def split_names(names: Sequence[bytes], block_size: int) -> list[int]:
    """How many of the sorted `names` each block takes; see `data_size` for the length."""
    if sum(map(len, names)) + DIRENT_SIZE * len(names) <= block_size:
        return [len(names)]
    counts: list[int] = []
    count = used = 0
    for need in map(DIRENT_SIZE.__add__, map(len, names)):
        if used + need > block_size:
            counts.append(count)
            count = used = 0
        count += 1
        used += need
    counts.append(count)
    return counts


def data_size(names: Sequence[bytes], counts: Sequence[int], block_size: int) -> int:
    """Bytes of a directory: whole blocks, and the last one as far as it is used."""
    last = names[len(names) - counts[-1] :]
    return (len(counts) - 1) * block_size + sum(map(len, last)) + DIRENT_SIZE * len(last)


def pack(
    names: Sequence[bytes],
    nids: Sequence[int],
    types: Sequence[int],
    counts: Sequence[int],
    block_size: int,
) -> bytes | bytearray:
    """Directory data of the sorted `names` with their nids and types, split by `counts`."""
    if len(counts) == 1:
        return _pack_block(names, nids, types)
    data = bytearray()
    start = 0
    for count in counts:
        data += bytes(-len(data) % block_size)
        end = start + count
        data += _pack_block(names[start:end], nids[start:end], types[start:end])
        start = end
    return data


def _pack_block(names: Sequence[bytes], nids: Sequence[int], types: Sequence[int]) -> bytes:
    offsets = accumulate(map(len, names), initial=DIRENT_SIZE * len(names))
    return b"".join([*map(DIRENT.pack, nids, offsets, types), *names])


def record_offsets(counts: Sequence[int], block_size: int) -> Iterator[int]:
    """Where in directory data split by `counts` the record of each name stands."""
    for block, count in enumerate(counts):
        start = block * block_size
        yield from range(start, start + DIRENT_SIZE * count, DIRENT_SIZE)


class DirBlock:
    """One block of a directory, read. `where` names it in errors."""

    __slots__ = ("count", "view", "where")

    def __init__(self, view: memoryview, where: str) -> None:
        self.view = view
        self.where = where
        if len(view) < DIRENT_SIZE:
            raise FormatError(f"directory block of {len(view)} bytes", where)
        first = DIRENT.unpack_from(view)[1]
        if first % DIRENT_SIZE or not DIRENT_SIZE <= first < len(view):
            raise FormatError(f"first name of a directory block at {first}", where)
        self.count = first // DIRENT_SIZE

    def record(self, index: int) -> DirRecord:
        return DirRecord._make(DIRENT.unpack_from(self.view, index * DIRENT_SIZE))

    def name(self, index: int) -> bytes:
        """The name of record `index`, an allowed one."""
        last = index + 1 == self.count
        if last:
            _, start, _ = DIRENT.unpack_from(self.view, index * DIRENT_SIZE)
            end = len(self.view)
        else:
            start, end = _TWO_NAMES.unpack_from(self.view, index * DIRENT_SIZE)
        if not self.count * DIRENT_SIZE <= start < end <= len(self.view):
            raise FormatError(f"directory name from {start} to {end}", self.where)
        # Only the last name of a block may be followed by the zeros that fill it.
        name = bytes(self.view[start : min(end, start + NAME_MAX + 1)])
        if last:
            name = name.partition(b"\0")[0]
        if not is_allowed_name(name):
            raise FormatError(f"directory name {name[:40]!r} is not allowed", self.where)
        return name

    def find(self, name: bytes) -> int | None:
        """The nid under `name`, or None."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            found = self.name(middle)
            if found == name:
                return self.record(middle).nid
            if found < name:
                low = middle + 1
            else:
                high = middle
        return None

    def entries(self, start: int = 0) -> Iterator[tuple[int, bytes, DirRecord]]:
        """(index, name, record) from index `start` on; names ascend or FormatError."""
        previous = b""
        for index in range(start, self.count):
            record = self.record(index)
            name = self.name(index)
            if name <= previous:
                raise FormatError(f"directory name {name!r} is out of order", self.where)
            if not 1 <= record.type <= FILE_TYPE_MAX:
                raise FormatError(f"{name!r} has file type {record.type}", self.where)
            previous = name
            yield index, name, record
