"""What an image is made of and how it is run: data, and plain functions that change a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.images.tree import Tree
from nydusify.startup.readiness import Exit, Line, Port

#: The run kinds of HelloBench.
Kind = Literal["echo", "arguments", "stdin", "log", "port", "compile"]

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Layer:
    """A tar file, then Debian packages, wheels from PyPI, and what `change` does to the tree.

    `stage` are packages of an earlier build stage, whose tree `change` finds as
    `tree.stage`; they are not in the image.
    """

    note: str
    packages: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    stage: tuple[str, ...] = ()
    archive: Path | None = None
    change: Callable[[Tree], None] | None = None


@dataclass(frozen=True)
class Run:
    """How the image is started, and how to know that it is ready.

    `arguments` take the place of the image's command. `mounts` are directories
    beside the recipe's files (app/NAME/...) and where they are shown, read-only.
    """

    kind: Kind
    ready: Exit | Line | Port
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    stdin: bytes = b""
    mounts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Layers from the lowest; the base system is below them unless `scratch`."""

    name: str
    layers: tuple[Layer, ...]
    run: Run
    config: Mapping[str, object] = field(default_factory=dict)
    scratch: bool = False


def http(port: int, path: str, answer: bytes) -> Port:
    """Ready when a page has `answer` in it."""
    ask = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    return Port(port, ask.encode(), answer)
