"""Starts of converted images that are traced, one image after the other, with nobody beside.

Runs this program again in namespaces of its own, so it is to be asked before anything is made.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import part
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.recipe import Recipe
from benchmarks.images.start import recording
from benchmarks.isolation import isolate, left_behind
from benchmarks.measure import program, run_to_end
from fs.image.trace import Heading, Touch, read_trace
from fs.registry.store import StoreOptions
from nydusify.startup.recording import record


class Start(NamedTuple):
    """`place` is where the converted image is; `work` is a directory for whatever is made of it."""

    recipe: Recipe
    place: str
    work: Path

    def trace(self) -> tuple[Heading, list[Touch]]:
        return read_trace(str(self.work / "trace"))


def starts(name: str, argv: Sequence[str], recipes: Sequence[Recipe]) -> Iterator[Start]:
    """Of `python -m benchmarks NAME ARGV`. RuntimeError in the end for processes left behind."""
    images = [cached_image(recipe, part.CACHE / "images", part.say) for recipe in recipes]
    isolate("benchmarks", [name, *argv], network=True)
    with tempfile.TemporaryDirectory(dir=part.CACHE, prefix=f"{name}-") as directory:
        for recipe, image in zip(recipes, images, strict=True):
            part.say(recipe.name)
            work = Path(directory) / recipe.name
            work.mkdir()
            yield _start(recipe, image, work)
    if left := left_behind():
        raise RuntimeError(f"processes were left behind: {left}")


def _start(recipe: Recipe, image: Path, work: Path) -> Start:
    place = f"oci:{work}/nydus:{TAG}"
    run_to_end(
        [program("nydusify"), "convert", "--source", f"oci:{image}:{TAG}", "--target", place]
    )
    record(place, StoreOptions(), recording(recipe), work, work / "trace")
    return Start(recipe, place, work)
