"""`python -m benchmarks coverage`: how much of what a start reads is guessed, and what else.

Each image is converted, started with a trace until it is ready, and its start guessed from its
files. Bytes are those of whole chunks, decoded: small ones have no stored size of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import part
from benchmarks.images.catalogue.all import chosen
from benchmarks.traced import Start, starts
from fs.format.bootstrap import Bootstrap
from fs.image.trace import Paths, Touch
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.startup.choice import guessed_set
from nydusify.startup.startup_set import StartupSet

DOCUMENT = part.REPOSITORY / "docs/startup-set.md"


@dataclass(frozen=True)
class Coverage:
    """Bytes, decoded. `needed` were read until ready, `covered` of them were guessed."""

    image: str
    image_bytes: int
    needed: int
    guessed: int
    covered: int

    @property
    def share(self) -> float:
        return self.covered / self.needed if self.needed else 1.0

    @property
    def too_much(self) -> int:
        """Guessed, but not needed."""
        return self.guessed - self.covered


def parser() -> argparse.ArgumentParser:
    top = part.parser("coverage", __doc__)
    top.add_argument("--quick", action="store_true", help="only a few")
    top.add_argument("--details", type=int, metavar="N", help="also the N largest misses of each")
    return top


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    recipes = chosen(arguments.images, quick=arguments.quick)
    rows = [_measure(start, arguments.details) for start in starts("coverage", argv, recipes)]
    part.conclude(arguments, "coverage", rows, table(rows), DOCUMENT)
    return 0


def _measure(start: Start, details: int | None) -> Coverage:
    heading, touches = start.trace()
    with open_image(ImagePlace(start.place), start.work) as opened:
        needed = StartupSet(opened.bootstrap)
        needed.add_touches(touches, heading.blobs, "trace")
        guessed = _guessed(opened, start.work)
        if details:
            _show(opened.bootstrap, needed, guessed, details)
        both = set(needed) & set(guessed)
        whole = sum(blob.uncompressed_size for blob in opened.bootstrap.blobs)
        total = (sum(place.length for place in places) for places in (needed, guessed, both))
        return Coverage(start.recipe.name, whole, *total)


def _guessed(opened: OpenedImage, work: Path) -> StartupSet:
    assert opened.image
    with opened.contents(work) as contents:
        return guessed_set(contents, opened.image.config)


def _show(
    bootstrap: Bootstrap,
    needed: StartupSet,
    guessed: StartupSet,
    count: int,
) -> None:
    """The files with the most bytes that were missed, and that were too much."""
    paths = Paths(bootstrap)
    for title, places in (
        ("missed", set(needed) - set(guessed)),
        ("too much", set(guessed) - set(needed)),
    ):
        by_file: dict[str, int] = {}
        for place in places:
            names = paths.of(Touch(0, place.blob_index, place.offset, place.length, 0))
            by_file[names[0]] = by_file.get(names[0], 0) + place.length
        ordered = sorted(by_file.items(), key=lambda each: -each[1])
        print(f"{title}: {len(by_file)} files")
        for name, size in ordered[:count]:
            print(f"  {size / 1e3:10.1f} kB  {name}")


def table(rows: Sequence[Coverage]) -> str:
    lines = [
        f"{'image':<12}{'image MB':>10}{'needed MB':>11}{'guessed MB':>12}{'covered':>9}"
        f"{'missed MB':>11}{'too much MB':>13}"
    ]
    for row in rows:
        lines.append(
            f"{row.image:<12}{row.image_bytes / 1e6:>10.1f}{row.needed / 1e6:>11.2f}"
            f"{row.guessed / 1e6:>12.2f}{row.share:>9.0%}"
            f"{(row.needed - row.covered) / 1e6:>11.2f}{row.too_much / 1e6:>13.2f}"
        )
    return "\n".join(lines)
