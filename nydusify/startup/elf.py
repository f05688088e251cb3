"""What an ELF file says about loading it: interpreter, libraries, where to look, what is read.

The parser is pyelftools'. A file that it cannot read is none: a guess never fails.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from nydusify.startup.files import File, ImageFiles
from nydusify.startup.wanted import Span

_MAGIC = b"\x7fELF"
_EXECUTABLE = 1
_MOST_SEGMENTS, _MOST_TAGS = 200, 4000


class Elf(NamedTuple):
    """`paths` is DT_RPATH or DT_RUNPATH as written; `inherited` if the former, which libraries
    of libraries obey too. `spans` are parts that the loader reads to relocate: segments without
    code; `code` are the bytes of those with code. `kind` is bits and machine.
    """

    interpreter: str | None
    needed: tuple[str, ...]
    soname: str
    paths: tuple[str, ...]
    inherited: bool
    spans: tuple[Span, ...]
    code: int
    kind: tuple[int, str]


def read_elf(files: ImageFiles, file: File) -> Elf | None:
    """None if it is no ELF file, or a damaged one."""
    if not file.is_regular or files.read(file, 0, 4) != _MAGIC:
        return None
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        return _parse(ELFFile(files.open(file)), file.size)
    except (ELFError, ValueError, KeyError, AttributeError, UnicodeError, AssertionError):
        return None


def _parse(elf: object, size: int) -> Elf:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    assert isinstance(elf, ELFFile)
    interpreter = None
    tags: dict[str, list[str]] = {}
    spans: list[Span] = []
    code = 0
    for segment in islice(elf.iter_segments(), _MOST_SEGMENTS):
        header = segment.header
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            for tag in islice(segment.iter_tags(), _MOST_TAGS):
                for kind in ("needed", "rpath", "runpath", "soname"):
                    if tag.entry.d_tag == f"DT_{kind.upper()}":
                        tags.setdefault(kind, []).append(getattr(tag, kind))
        elif header.p_type == "PT_LOAD":
            length = min(header.p_filesz, max(0, size - header.p_offset))
            if header.p_flags & _EXECUTABLE:
                code += length
            elif length:
                spans.append((header.p_offset, length))
    run = tags.get("runpath")
    return Elf(
        interpreter,
        tuple(tags.get("needed", ())),
        (tags.get("soname") or [""])[0],
        tuple((run or tags.get("rpath") or [""])[0].split(":")) if run or "rpath" in tags else (),
        run is None and "rpath" in tags,
        tuple(spans),
        code,
        (elf.elfclass, str(elf["e_machine"])),
    )
