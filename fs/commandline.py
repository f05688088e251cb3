"""What our command lines have in common: a wrong one is a UsageError, one line like any failure."""

from __future__ import annotations

import argparse
from typing import NoReturn

from fs.format.errors import UsageError


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")
