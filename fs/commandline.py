"""What our command lines have in common: the version, how to mount, how to be wrong.

A wrong command line is a UsageError: one line, like any failure.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from fs.format.errors import UsageError

#: Of all that is installed together; the package's metadata takes it from here.
VERSION = "0.1.0"


class Parser(argparse.ArgumentParser):
    def add_version(self) -> None:
        line = f"{self.prog} {VERSION}"
        self.add_argument(
            "--version", action="version", version=line, help="print the version and exit"
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def size(text: str) -> int:
    """Bytes from a number with or without K, M, G or T (powers of 1024)."""
    number, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isascii() or not number.isdigit() or unit not in ("", *"KMGT"):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: 500M, 20G")
    return int(number) << 10 * " KMGT".index(unit or " ")


def seconds(text: str) -> float:
    """A length of time, 0 or more."""
    number = float(text)
    if not number >= 0:  # NaN is not, either
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


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
