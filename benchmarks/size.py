"""`python -m benchmarks size`: how large converted images are, of every image of the suite.

Sizes are those of all layers, as a registry keeps and counts them: gzip ones before, blobs and
bootstrap after, at the default options.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.blocks import write_block
from benchmarks.convert import CACHE, DOCUMENT
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.all import chosen
from benchmarks.measure import program, run_to_end
from benchmarks.record import machine
from fs.registry.store import open_reader


@dataclass(frozen=True)
class Size:
    """Bytes."""

    image: str
    gzip: int
    nydus: int

    @property
    def share(self) -> float:
        return self.nydus / self.gzip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--images", metavar="A,B", help="only these (default: all)")
    top.add_argument("--record", action="store_true", help="renew the table in the docs")
    top.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return top


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    recipes = chosen(arguments.images, quick=False)
    rows = []
    for recipe in recipes:
        print(f"· {recipe.name}", file=sys.stderr, flush=True)
        layout = cached_image(recipe, CACHE / "images", lambda text: None)
        rows.append(measure(recipe.name, f"oci:{layout}:{TAG}"))
    text = f"{table(rows)}\n\n({machine()})"
    print(text)
    if arguments.record:
        write_block(DOCUMENT, "python -m benchmarks size --record", text)
    if arguments.json:
        document = {"machine": machine(), "size": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def measure(name: str, source: str) -> Size:
    """Convert the image, and compare."""
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="size-") as work:
        target = f"oci:{work}/layout:nydus"
        words = ["--source", source, "--target", target, "--no-layer-cache"]
        run_to_end([program("nydusify"), "convert", *words])
        return Size(name, _size(source), _size(target))


def _size(place: str) -> int:
    with closing(open_reader(place)) as reader:
        return sum(layer.size for layer in reader.resolve(nydus=True).manifest.layers)


def table(rows: Sequence[Size]) -> str:
    lines = [f"{'image':<12}{'gzip MB':>10}{'nydus MB':>10}{'of gzip':>10}"]
    lines += [
        f"{row.image:<12}{row.gzip / 1e6:>10.1f}{row.nydus / 1e6:>10.1f}{row.share:>10.3f}"
        for row in sorted(rows, key=lambda row: -row.share)
    ]
    return "\n".join(lines)
