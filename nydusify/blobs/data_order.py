"""Which files' data lie first in a blob, and in what order: those that a start reads.

A start then takes one range of the blob, and batches there hold nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from fs.tar.paths import clean


class DataOrder:
    """Made of absolute paths in the image, in the order in which their data should lie.

    A directory stands for all files below it. Links are not followed: layers do not
    know each other.
    """

    def __init__(self, paths: Sequence[str | bytes] = ()) -> None:
        self._ranks: dict[bytes, int] = {}
        for path in paths:
            names = clean(os.fsencode(path), "path of what is first")
            self._ranks.setdefault(b"/".join(names), len(self._ranks))
        if b"" in self._ranks:  # everything: that is no order
            self._ranks.clear()

    def __bool__(self) -> bool:
        return bool(self._ranks)

    @property
    def paths(self) -> list[bytes]:
        return list(self._ranks)

    def rank(self, names: Sequence[bytes]) -> int | None:
        """The place of a file's data among those that are first; None if it is not."""
        for depth in range(len(names), 0, -1):
            rank = self._ranks.get(b"/".join(names[:depth]))
            if rank is not None:
                return rank
        return None
