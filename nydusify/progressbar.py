"""The progress bar. Only a terminal ever needs it, so only then is rich imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def step(self, name: str, size: int) -> None:
        self._bar.reset(self._task, description=name, total=size or None)

    def advance(self, size: int) -> None:
        self._bar.advance(self._task, size)


@contextmanager
def progress_bar(stream: TextIO) -> Iterator[_Bar]:
    """A bar that is erased at the end."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        yield _Bar(bar)
