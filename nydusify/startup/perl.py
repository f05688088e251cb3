"""Perl: the modules that a script uses, and those that they use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_SOURCE = 512 << 10
_MOST = 500
_USE = re.compile(r"^\s*(?:use|require)\s+([A-Za-z_][\w:]*)", re.MULTILINE)
_END = re.compile(r"^__(?:END|DATA)__", re.MULTILINE)


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add a script's modules; a script from standard input is not known."""
    for position, word in enumerate(words):
        if word in ("-e", "-E") and words[position + 1 :]:
            _scan(start, words[position + 1], set())
            return
        if not word.startswith("-"):
            file = start.files.file(start.absolute(word))
            if file is not None:
                start.wanted.add(file, "script")
                _scan(start, start.files.text(file, _SOURCE), set())
            return


def _scan(start: Start, source: str, seen: set[str]) -> None:
    for name in _USE.findall(_END.split(source)[0]):
        if name in seen or len(seen) > _MOST:
            continue
        seen.add(name)
        path = name.replace("::", "/")
        for directory in _directories(start):
            file = start.files.file(f"{directory}/{path}.pm")
            if file is not None:
                start.wanted.add(file, "use")
                base = path.rpartition("/")[2]
                extension = start.files.file(f"{directory}/auto/{path}/{base}.so")
                if extension:
                    start.loader.want(extension, "use")
                _scan(start, start.files.text(file, _SOURCE), seen)
                break


def _directories(start: Start) -> list[str]:
    """@INC as Debian and the official image have it."""
    found = ["/etc/perl"]
    for parent in ("/usr/local/lib/perl5", "/usr/lib/x86_64-linux-gnu/perl", "/usr/share/perl",
                   "/usr/lib/aarch64-linux-gnu/perl"):  # fmt: skip
        names = start.files.names(parent)
        found += [f"{parent}/{name}" for name in names if name[:1].isdigit()]
        found += [f"{parent}/{name}/x86_64-linux-gnu" for name in names if "local" in parent]
    return [*found, "/usr/share/perl5", "/usr/lib/x86_64-linux-gnu/perl5",
            "/usr/lib/x86_64-linux-gnu/perl-base"]  # fmt: skip
