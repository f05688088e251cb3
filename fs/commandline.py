"""What our command lines have in common: the version, how to mount, how to be wrong.

A wrong command line is a UsageError: one line, like any failure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from typing import NoReturn

from fs.format.errors import UsageError

#: Of all that is installed together; the package's metadata takes it from here.
VERSION = "0.1.0"
_SIZE = re.compile(r"(0x[0-9a-f]+|[0-9]+)\s*(?:([kmgt])(?:i?b)?)?", re.IGNORECASE)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Texts as they are written, as wide as the terminal.

    argparse asks its formatter at each argument that is added, and would import shutil for
    the width, and all compressors of the standard library with it.
    """

    def __init__(
        self,
        prog: str,
        indent_increment: int = 2,
        max_help_position: int = 24,
        width: int | None = None,
    ) -> None:
        super().__init__(prog, indent_increment, max_help_position, width or _columns() - 2)


def _columns() -> int:
    """As shutil.get_terminal_size has it."""
    with contextlib.suppress(KeyError, ValueError):
        if (told := int(os.environ["COLUMNS"])) > 0:
            return told
    with contextlib.suppress(OSError):
        return os.get_terminal_size(1).columns or 80
    return 80


class Parser(argparse.ArgumentParser):
    def _get_formatter(self) -> argparse.HelpFormatter:
        return Formatter(self.prog)

    def add_version(self) -> None:
        line = f"{self.prog} {VERSION}"
        self.add_argument(
            "--version", action="version", version=line, help="print the version and exit"
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def size(text: str) -> int:
    """Bytes from 0x100000, 1048576, 1024K, 1MiB or 10GB; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a size: write 0x100000, 1048576 or 1MiB"
        )
    digits, unit = match.groups()
    return int(digits, 16 if digits[1:2] in ("x", "X") else 10) << 10 * " kmgt".index(
        (unit or " ").lower()
    )


def seconds(text: str) -> float:
    """A length of time, 0 or more."""
    number = float(text)
    if not number >= 0:  # NaN is not, either
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


def absolute_source(source: str) -> str:
    """What an image is mounted from, for a daemon that need not share our directory."""
    if os.path.isfile(source):
        return os.path.abspath(source)
    for kind in ("oci:", "oci-archive:", "docker-archive:"):
        if source.startswith(kind) and source != kind:
            return kind + os.path.abspath(source.removeprefix(kind))
    return source


def add_cache_arguments(mount: argparse.ArgumentParser) -> None:
    """Where fetched data is kept, and how much of it."""
    mount.add_argument("--cache-dir", metavar="DIR", help="where fetched data is kept")
    mount.add_argument(
        "--cache-size",
        metavar="BYTES",
        type=size,
        help="what that directory may take on disk (500M, 20G); the least recently used goes",
    )


def add_fetch_arguments(mount: argparse.ArgumentParser) -> None:
    """What is fetched unasked, and how long an outage may last."""
    mount.add_argument(
        "--outage-deadline",
        metavar="SECONDS",
        type=seconds,
        default=120.0,
        help="how long reads wait through an outage before they fail (default 120)",
    )
    prefetch = mount.add_mutually_exclusive_group()
    prefetch.add_argument(
        "--prefetch",
        choices=("table", "all", "none"),
        default="table",
        help="what to fetch unasked: what the image lists (default), all of it, nothing",
    )
    prefetch.add_argument(
        "--no-prefetch",
        action="store_const",
        const="none",
        dest="prefetch",
        help="the same as --prefetch none",
    )
    mount.add_argument(
        "--prefetch-bandwidth",
        metavar="BYTES",
        type=int,
        help="bytes a second for what --prefetch all fetches beyond the list",
    )


def add_serving_arguments(mount: argparse.ArgumentParser) -> None:
    """How the tree reaches the kernel, and what is noted of its use."""
    mount.add_argument("--trace", metavar="FILE", help="record what is touched first")
    mount.add_argument(
        "--driver",
        choices=("auto", "erofs", "fuse"),
        default="auto",
        help="how the tree reaches the kernel (default: erofs where it works)",
    )
