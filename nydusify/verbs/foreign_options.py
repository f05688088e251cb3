"""Options of Nydus's own programs that do nothing here: accepted and noted, or refused with why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fs.format.errors import UsageError


class Unused(argparse.Action):
    """Accepted for the sake of command lines that have it; `say_unused` notes it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.unused = [*getattr(namespace, "unused", []), option_string]


class Refused(argparse.Action):
    """It would change what is made, into what is not made here: its help says what to do."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        raise UsageError(f"{option_string}: {self.help}")


def say_unused(arguments: argparse.Namespace) -> None:
    for name in getattr(arguments, "unused", ()):
        print(f"nydusify: note: {name} has no effect here", file=sys.stderr)
