"""Erlang: the emulator behind `erlexec`, and the libraries of every node."""

from __future__ import annotations

from collections.abc import Sequence

from nydusify.startup.files import File
from nydusify.startup.programs import Start

_PROGRAMS = ("beam.smp", "erl_child_setup", "inet_gethost", "epmd")
_LIBRARIES = ("kernel-", "stdlib-")
_MOST = 500


def want(start: Start, program: File, words: Sequence[str], depth: int) -> None:
    """Add the programs beside it, the boot files, and the compiled modules of kernel and stdlib."""
    for name in _PROGRAMS:
        if file := start.files.file(f"{program.directory}/{name}"):
            start.loader.want(file, "erlang")
    root = program.directory.rpartition("/")[0].rpartition("/")[0]
    for name in start.files.names(f"{root}/bin"):
        if name.endswith(".boot"):
            start.wanted.add(start.files.file(f"{root}/bin/{name}"), "erlang")
    for name in start.files.names(f"{root}/lib"):
        if name.startswith(_LIBRARIES):
            for file in start.files.below(f"{root}/lib/{name}/ebin", _MOST):
                start.wanted.add(file, "erlang")
