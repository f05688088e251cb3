"""What our command lines have in common: a version, and that a wrong one is a UsageError.

A UsageError is one line, like any failure.
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
