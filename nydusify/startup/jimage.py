"""The file `lib/modules` of a Java runtime: an index, then the classes, module by module.

Seven words of 4 bytes (the machine's order; here little-endian): magic, version, flags, number of
resources, length of the tables, sizes of the locations and of the strings. Then the tables
(redirections, offsets of locations; 4 bytes each), locations and strings. A location is a
list of attributes: kind and length in a byte, then the value, big-endian; 0 ends it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from nydusify.startup.files import File, ImageFiles
from nydusify.startup.wanted import Span

_HEAD = struct.Struct("<7I")
_MAGIC = 0xCAFEDADA
_INDEX = 8 << 20
_MODULE, _PARENT, _OFFSET, _COMPRESSED, _SIZE = 1, 2, 5, 6, 7
#: Of larger modules only the packages that are asked for.
_WHOLE = 12 << 20
#: Spans that are so near to each other are one.
_NEAR = 64 << 10


class _Resource(NamedTuple):
    module: bytes
    package: bytes
    offset: int
    size: int


def index_span(files: ImageFiles, file: File) -> Span:
    """The header, the tables and the names in front of the classes."""
    head = files.read(file, 0, _HEAD.size)
    if len(head) < _HEAD.size or not head:
        return 0, file.size
    magic, _, _, _, length, locations, strings = _HEAD.unpack(head)
    if magic != _MAGIC:
        return 0, min(file.size, 4096)
    return 0, min(file.size, _INDEX, _HEAD.size + 8 * length + locations + strings)


def package_spans(
    files: ImageFiles, file: File, packages: Collection[bytes], always: Collection[bytes]
) -> list[Span]:
    """Where modules with any of `packages` ("java/util") lie, and the modules `always`."""
    try:
        resources = list(_resources(files, file))
    except (struct.error, ValueError, IndexError):
        return []
    sizes: dict[bytes, int] = {}
    for each in resources:
        sizes[each.module] = sizes.get(each.module, 0) + each.size
    named = {each.module for each in resources if each.package in packages}
    whole = {module for module in named if sizes[module] <= _WHOLE} | set(always)
    spans: list[Span] = []
    for each in sorted(resources, key=lambda resource: resource.offset):
        if each.module not in whole and each.package not in packages:
            continue
        end = min(file.size, each.offset + each.size)
        if spans and each.offset - sum(spans[-1]) <= _NEAR:
            spans[-1] = (spans[-1][0], end - spans[-1][0])
        elif each.offset < end:
            spans.append((each.offset, end - each.offset))
    return spans


def _resources(files: ImageFiles, file: File) -> Iterator[_Resource]:
    """In no order. struct.error, ValueError, IndexError if the index is damaged or too large."""
    magic, _, _, _, length, locations, strings = _HEAD.unpack(files.read(file, 0, _HEAD.size))
    tables = 8 * length
    if magic != _MAGIC or _HEAD.size + tables + locations + strings > min(_INDEX, file.size):
        raise ValueError
    index = files.read(file, _HEAD.size, tables + locations + strings)
    places, text = index[tables : tables + locations], index[tables + locations :]
    classes = _HEAD.size + len(index)
    names: dict[int, bytes] = {}
    for at in struct.unpack_from(f"<{length}I", index, 4 * length):
        values = _attributes(places, at)
        for kind in (_MODULE, _PARENT):
            if values[kind] not in names:
                start = values[kind]
                names[start] = text[start : text.index(b"\0", start)]
        size = values[_COMPRESSED] or values[_SIZE]
        yield _Resource(
            names[values[_MODULE]], names[values[_PARENT]], classes + values[_OFFSET], size
        )


def _attributes(places: bytes, at: int) -> list[int]:
    values = [0] * 32
    while kind := places[at] >> 3:
        end = at + 2 + (places[at] & 7)
        values[kind] = int.from_bytes(places[at + 1 : end], "big")
        at = end
    return values
