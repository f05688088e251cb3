"""When a start got how far, for who measures it."""

from __future__ import annotations

import time

from fs.format.errors import local_errors


class Timings:
    """Steps by name, in seconds of CLOCK_MONOTONIC, which all processes of a machine share."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._steps: list[tuple[str, float]] = []

    def reached(self, step: str) -> None:
        self._steps.append((step, time.monotonic()))

    def write(self) -> None:
        """One JSON object; nothing if nobody asked."""
        if self._path:
            text = ", ".join(f'"{step}": {seconds:.6f}' for step, seconds in self._steps)
            with local_errors(self._path), open(self._path, "w") as out:
                out.write("{" + text + "}\n")
