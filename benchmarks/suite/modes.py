"""The ways to start an image, as data and command lines.

A mode is a list of steps that make the image available, the command that then runs the
program, and the steps that show its tree, to be read through. Daemons that a node has anyway
(containerd, snapshotters, `nydus-fs daemon`) are started before the clock is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.suite.subject import Place


class Step(NamedTuple):
    """A command to run to its end; `marks` are patterns of what it says at which moment."""

    name: str
    command: list[str]
    marks: Mapping[str, str] = {}


@dataclass(frozen=True)
class Plan:
    """What a mode does at one place.

    `timings` is a file that `run` writes: moments by name, in seconds of CLOCK_MONOTONIC.
    `show` makes the image's tree appear at `tree`, without a container.
    """

    pull: Sequence[Step]
    run: Sequence[str]
    show: Sequence[Step]
    tree: Path
    create: Sequence[Step] = ()
    timings: Path | None = None


class Mode(Protocol):
    """`format` is the tag of the image that it starts; `lazy` modes need not fetch all of it.

    `again`: started once before, with all caches kept, the page cache too.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def lazy(self) -> bool: ...
    @property
    def again(self) -> bool: ...

    def missing(self) -> str:
        """What of its tools is not there; "" if none."""

    def at(self, place: Place) -> AbstractContextManager[Plan]:
        """What to do there, with all daemons up."""


def programs_missing(*names: str) -> str:
    absent = [name for name in names if shutil.which(name) is None]
    return f"no {', '.join(absent)} on the PATH" if absent else ""
