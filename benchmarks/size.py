"""`python -m benchmarks size`: how large converted images are, of every image of the suite.

Sizes are those of all layers, as a registry keeps and counts them: gzip ones before, blobs and
bootstrap after, at the default options. Where layers were packed again, so much content as is told,
the image is converted with `--compressor zstd` too, with which none are: `once`. Beside both the
seconds of CPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks import part
from benchmarks.conversion_parts import cpu_of_children
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.all import chosen
from benchmarks.measure import program, run_to_end
from fs.registry.store import open_reader


@dataclass(frozen=True)
class Size:
    """Bytes, and seconds. `once`: where nothing was packed again, 0 if nothing was anyway."""

    image: str
    gzip: int
    nydus: int
    cpu: float
    repacked: int = 0
    once: int = 0
    once_cpu: float = 0.0

    @property
    def share(self) -> float:
        return self.nydus / self.gzip


class _Converted(NamedTuple):
    size: int
    repacked: int
    cpu: float


def parser() -> argparse.ArgumentParser:
    top = part.parser("size", __doc__)
    top.add_argument(
        "--alpine", type=Path, metavar="FILE", help="the root file system of one more image, a tar"
    )
    return top


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    recipes = chosen(arguments.images, quick=False, alpine_file=arguments.alpine)
    rows = []
    for recipe in recipes:
        part.say(recipe.name)
        layout = cached_image(recipe, part.CACHE / "images", lambda text: None)
        rows.append(measure(recipe.name, f"oci:{layout}:{TAG}"))
    part.conclude(arguments, "size", rows, table(rows))
    return 0


def measure(name: str, source: str) -> Size:
    """Convert the image, and compare."""
    found = _converted(source)
    size = Size(name, _size(source), found.size, found.cpu, found.repacked)
    if not size.repacked:
        return size
    once = _converted(source, "--compressor", "zstd")
    return replace(size, once=once.size, once_cpu=once.cpu)


def _converted(source: str, *options: str) -> _Converted:
    with tempfile.TemporaryDirectory(dir=part.CACHE, prefix="size-") as work:
        target, report = f"oci:{work}/layout:nydus", Path(work) / "report.json"
        words = ["--source", source, "--target", target, "--no-layer-cache", *options]
        before = cpu_of_children()
        run_to_end([program("nydusify"), "convert", *words, "--output-json", str(report)])
        cpu = cpu_of_children() - before
        repacked = sum(layer["repacked_size"] for layer in json.loads(report.read_text())["layers"])
        return _Converted(_size(target), repacked, cpu)


def _size(place: str) -> int:
    with closing(open_reader(place)) as reader:
        return sum(layer.size for layer in reader.resolve(nydus=True).manifest.layers)


def table(rows: Sequence[Size]) -> str:
    lines = [
        f"{'image':<12}{'gzip MB':>10}{'nydus MB':>10}{'of gzip':>9}{'CPU s':>7}"
        f"{'again MB':>10}{'once':>7}{'CPU s':>7}"
    ]
    for row in sorted(rows, key=lambda row: -row.share):
        line = f"{row.image:<12}{row.gzip / 1e6:>10.1f}{row.nydus / 1e6:>10.1f}{row.share:>9.3f}"
        line += f"{row.cpu:>7.1f}"
        if row.repacked:
            line += f"{row.repacked / 1e6:>10.1f}{row.once / row.gzip:>7.3f}{row.once_cpu:>7.1f}"
        lines.append(line)
    return "\n".join(lines)
