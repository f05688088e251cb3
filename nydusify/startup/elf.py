"""What an ELF file says about loading it: interpreter, libraries, where to look, what is read.

Of a file only the headers, the dynamic section and a few names are read: pyelftools, which
knows all of the format, takes twenty times as long, and a start has some fifty libraries.
What is damaged is no ELF file: a guess never fails. Layout: elf(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import takewhile
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from nydusify.startup.files import File, ImageFiles
from nydusify.startup.wanted import Span

_MAGIC = b"\x7fELF"
_IDENT_SIZE = 16
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_EXECUTABLE = 1
_END, _NEEDED, _STRTAB, _SONAME, _RPATH, _RUNPATH = 0, 1, 5, 14, 15, 29
_MOST_SEGMENTS, _MOST_TAGS, _MOST_NEEDED = 200, 4000, 1000
_NAME = 4096


class _Words(NamedTuple):
    """The records of one class. Of the header: machine, offset, size and number of segments.

    Of a segment: type, flags, offset, address, size in the file, by `segment_order`.
    """

    header: Struct
    segment: Struct
    segment_order: tuple[int, ...]
    tag: Struct


def _words(order: str) -> dict[int, _Words]:
    """By class: 1 for 32 bits, 2 for 64."""
    return {
        1: _Words(
            Struct(f"{order}2xH4x4xI4x4x2xHH"),
            Struct(f"{order}III4xI4xI4x"),
            (0, 4, 1, 2, 3),
            Struct(f"{order}iI"),
        ),
        2: _Words(
            Struct(f"{order}2xH4x8xQ8x4x2xHH"),
            Struct(f"{order}IIQQ8xQ8x8x"),
            (0, 1, 2, 3, 4),
            Struct(f"{order}qQ"),
        ),
    }


_BY_ORDER = {1: _words("<"), 2: _words(">")}
assert [(w.segment.size, w.tag.size) for w in _BY_ORDER[1].values()] == [(32, 8), (56, 16)]


class Elf(NamedTuple):
    """`paths` is DT_RPATH or DT_RUNPATH as written; `inherited` if the former, which libraries
    of libraries obey too. `spans` are parts that the loader reads to relocate: segments without
    code; `code` are the bytes of those with code. `kind` is bits and machine (e_machine).
    """

    interpreter: str | None
    needed: tuple[str, ...]
    soname: str
    paths: tuple[str, ...]
    inherited: bool
    spans: tuple[Span, ...]
    code: int
    kind: tuple[int, int]


class _Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    size: int


def read_elf(files: ImageFiles, file: File) -> Elf | None:
    """None if it is no ELF file, or a damaged one."""
    if not file.is_regular:
        return None
    head = files.read(file, 0, 64)
    if head[:4] != _MAGIC or len(head) < _IDENT_SIZE:
        return None
    words = _BY_ORDER.get(head[5], {}).get(head[4])
    try:
        return _Reader(files, file, words, head).elf(32 * head[4]) if words else None
    except (StructError, ValueError):
        return None


class _Reader:
    def __init__(self, files: ImageFiles, file: File, words: _Words, head: bytes) -> None:
        self._files = files
        self._file = file
        self._words = words
        self._machine, table, size, count = words.header.unpack_from(head, _IDENT_SIZE)
        if size < words.segment.size:
            raise ValueError("segments are too short")
        data = files.read(file, table, size * min(count, _MOST_SEGMENTS))
        starts = range(0, len(data) - len(data) % size, size)
        self._segments = [self._segment(words.segment.unpack_from(data, at)) for at in starts]

    def _segment(self, fields: tuple[int, ...]) -> _Segment:
        return _Segment(*(fields[place] for place in self._words.segment_order))

    def elf(self, bits: int) -> Elf:
        interpreter = None
        tags: dict[int, list[int]] = {}
        spans: list[Span] = []
        code = 0
        for segment in self._segments:
            if segment.kind == _INTERP:
                interpreter = self._name(segment.offset)
            elif segment.kind == _DYNAMIC:
                for tag, value in self._tags(segment):
                    tags.setdefault(tag, []).append(value)
            elif segment.kind == _LOAD:
                length = min(segment.size, max(0, self._file.size - segment.offset))
                if segment.flags & _EXECUTABLE:
                    code += length
                elif length:
                    spans.append((segment.offset, length))
        names = self._offset(tags.get(_STRTAB, [0])[0])
        run = tags.get(_RUNPATH)
        paths = (run or tags.get(_RPATH) or [])[:1]
        return Elf(
            interpreter,
            tuple(self._name(names + at) for at in tags.get(_NEEDED, [])[:_MOST_NEEDED]),
            "".join(self._name(names + at) for at in tags.get(_SONAME, [])[:1]),
            tuple(path for at in paths for path in self._name(names + at).split(":")),
            run is None and bool(paths),
            tuple(spans),
            code,
            (bits, self._machine),
        )

    def _tags(self, segment: _Segment) -> Iterator[tuple[int, ...]]:
        record = self._words.tag
        length = min(segment.size, _MOST_TAGS * record.size)
        data = self._files.read(self._file, segment.offset, length)
        tags = record.iter_unpack(data[: len(data) - len(data) % record.size])
        return takewhile(lambda pair: pair[0] != _END, tags)

    def _offset(self, address: int) -> int:
        """Where in the file lies what is mapped at `address`."""
        for segment in self._segments:
            if segment.kind == _LOAD and 0 <= address - segment.address < segment.size:
                return address - segment.address + segment.offset
        return address

    def _name(self, offset: int) -> str:
        name, end, _ = self._files.read(self._file, offset, _NAME).partition(b"\0")
        if not end:
            raise ValueError("a name without an end")
        return os.fsdecode(name)
