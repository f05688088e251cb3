"""What was found to be wanted so far: files and ranges of them, in the order of the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nydusify.startup.files import File

Span = tuple[int, int]


class Want(NamedTuple):
    """`spans` are (offset, length); `why` names the source of the guess."""

    file: File
    spans: Sequence[Span]
    why: str


class Wanted:
    """Every range of a file once, in the order in which it was first added."""

    def __init__(self) -> None:
        self._wants: list[Want] = []
        self._seen: set[tuple[int, Span]] = set()

    def __iter__(self) -> Iterator[Want]:
        return iter(self._wants)

    def add(self, file: File | None, why: str, spans: Sequence[Span] | None = None) -> bool:
        """Whether something of it is new. Without `spans` the whole file is meant."""
        if file is None or not file.is_regular or not file.size:
            return False
        given = [(0, file.size)] if spans is None else spans
        new = [span for span in given if (file.nid, span) not in self._seen]
        if not new:
            return False
        self._seen.update((file.nid, span) for span in new)
        self._wants.append(Want(file, new, why))
        return True

    def has(self, file: File) -> bool:
        """Whether all of a file is wanted already."""
        return (file.nid, (0, file.size)) in self._seen
