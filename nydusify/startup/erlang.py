"""Erlang: the emulator behind `erlexec`, and the applications that a start loads.

An application's description names those that it needs. A release loads all modules of its
applications; which one is first is said by `-s`, or by what a script calls its boot module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_PROGRAMS = ("beam.smp", "erl_child_setup", "inet_gethost", "epmd")
_ALWAYS = ("kernel", "stdlib")
_MOST, _MOST_APPLICATIONS = 500, 200
_TEXT = 256 << 10
#: Where a release keeps its applications, beside the directory of its scripts.
_PLACES = ("lib", "plugins")
_COMPILED = (".beam", ".app")
_FIRST = re.compile(r"(?:\s-s\s+|BOOT_MODULE=\"?)([a-z]\w*)")
_NEEDED = re.compile(r"\{\s*(?:included_)?applications\s*,\s*\[([^\]]*)\]")
_NAME = re.compile(r"[a-z][\w@]*")


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the programs beside it, the boot files, and the applications' compiled modules."""
    for name in _PROGRAMS:
        if file := start.files.file(f"{program.directory}/{name}"):
            start.loader.want(file, "erlang")
    root = program.directory.rpartition("/")[0].rpartition("/")[0]
    for name in start.files.names(f"{root}/bin"):
        if name.endswith(".boot"):
            start.wanted.add(start.files.file(f"{root}/bin/{name}"), "erlang")
    scripts = [want.file for want in start.wanted if want.why in ("script", "entry point")]
    text = "\n".join([" " + " ".join(words), *(start.files.text(each, _TEXT) for each in scripts)])
    places = [f"{root}/lib"]
    for script in scripts:
        home = script.directory.rpartition("/")[0]
        places += [f"{home}/{name}" for name in _PLACES]
    _want_applications(start, [*_ALWAYS, *_FIRST.findall(text)], list(dict.fromkeys(places)))


def _want_applications(start: Start, names: list[str], places: Sequence[str]) -> None:
    """These and those that they need, each with its libraries."""
    seen: set[str] = set()
    found = {name: path for place in reversed(places) for name, path in _applications(start, place)}
    while names and len(seen) < _MOST_APPLICATIONS:
        name = names.pop(0)
        if name in seen or name not in found:
            continue
        seen.add(name)
        path = found[name]
        for file in start.files.below(f"{path}/ebin", _MOST):
            if file.name.endswith(_COMPILED):
                start.wanted.add(file, "erlang")
        for file in start.files.below(f"{path}/priv", _MOST):
            if file.name.endswith(".so"):
                start.loader.want(file, "erlang")
        if description := start.files.file(f"{path}/ebin/{name}.app"):
            for needed in _NEEDED.findall(start.files.text(description, _TEXT)):
                names += _NAME.findall(needed)


def _applications(start: Start, place: str) -> Iterator[tuple[str, str]]:
    """Names and directories of the applications in a directory; of several versions the last."""
    for directory in start.files.names(place):
        name = directory.partition("-")[0]
        if start.files.names(f"{place}/{directory}/ebin"):
            yield name, f"{place}/{directory}"
