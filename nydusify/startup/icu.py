"""ICU's data library: a table of contents, and the parts of it that collations are made of.

The data begin (little-endian) with the size of their header (2 bytes), two of magic, and at
12 "CmnD". Behind the header come the number of items and, for each, the offsets of its name
and of its data, all of 4 bytes; offsets count from the number's place.
"""

from __future__ import annotations

import struct

from nydusify.startup.files import File, ImageFiles
from nydusify.startup.wanted import Span

_HEAD = 64 << 10
_FORMAT, _FORMAT_AT = b"CmnD", 12
_MOST, _NAMES = 20_000, 1 << 20
#: Of every language; of others what an English name of a language is made with.
_GROUPS = ("coll/", "lang/")
_NAMED_BY = ("region/en.res", "region/root.res", "region/pool.res", "res_index.res")


def collation_spans(files: ImageFiles, file: File) -> list[Span]:
    """What listing all collations with their names reads; nothing of another kind of file."""
    head = files.read(file, 0, _HEAD)
    start = head.find(_FORMAT) - _FORMAT_AT
    if start < 0 or len(head) < start + 4:
        return []
    table = start + struct.unpack_from("<H", head, start)[0]
    try:
        items = _items(files, file, table)
    except (struct.error, ValueError, IndexError):
        return []
    spans = [(0, items[0][1])] if items else []
    for (name, offset), (_, end) in zip(items, [*items[1:], ("", file.size)], strict=True):
        name = name.partition("/")[2]  # behind the version's
        wanted = name.startswith(_GROUPS) or name in _NAMED_BY
        if wanted and offset < end <= file.size:
            if sum(spans[-1]) == offset:
                spans[-1] = (spans[-1][0], end - spans[-1][0])
            else:
                spans.append((offset, end - offset))
    return spans


def _items(files: ImageFiles, file: File, table: int) -> list[tuple[str, int]]:
    """Names and places in the file, in its order. struct.error, ValueError if it is damaged."""
    (count,) = struct.unpack("<I", files.read(file, table, 4))
    if not 0 < count <= _MOST:
        raise ValueError
    entries = struct.unpack(f"<{2 * count}I", files.read(file, table + 4, 8 * count))
    first = entries[0]
    names = files.read(file, table + first, _NAMES)
    items = []
    for at, offset in zip(entries[::2], entries[1::2], strict=True):
        name = names[at - first : names.index(b"\0", at - first)]
        items.append((name.decode("ascii", "replace"), table + offset))
    return sorted(items, key=lambda item: item[1])
