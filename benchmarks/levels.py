"""`python -m benchmarks levels`: what zstd's levels make of layers that gain little at level 3.

`short` is the search that is no level of its own (fs/format/codec.py).
The largest layer of each image, in pieces of 1 MiB, of many every eighth; one core. Sizes are
against the same pieces at level 3, then MiB of content a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from isal import igzip

from benchmarks import part
from benchmarks.blocks import write_block
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.all import chosen
from benchmarks.record import machine
from fs.format.codec import SHORT_SEARCH, ZstdSearch, compress_zstd
from fs.registry.store import open_reader

_IMAGES = "busybox,nginx-small,golang,postgres"
_LEVELS = {f"level {level}": level for level in (3, 5, 6, 9, 12, 16)}
_WAYS: dict[str, int | ZstdSearch] = {
    **_LEVELS,
    "short": SHORT_SEARCH,
    "level 18": 18,
    "level 19": 19,
}
_PIECE = 1 << 20
_LARGE, _EVERY = 32, 8


class Packed(NamedTuple):
    """All pieces: bytes as packed, and seconds of CPU."""

    size: int
    seconds: float


def main(argv: Sequence[str]) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks levels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--images", default=_IMAGES, metavar="A,B", help="default: %(default)s")
    top.add_argument("--record", action="store_true", help="renew the table in the docs")
    arguments = top.parse_args(argv)
    lines = ["image          " + "".join(f"{name:>14}" for name in _WAYS)]
    for recipe in chosen(arguments.images, quick=False):
        part.say(recipe.name)
        layout = cached_image(recipe, part.CACHE / "images", lambda text: None)
        pieces = list(_largest_layer(f"oci:{layout}:{TAG}"))
        if len(pieces) > _LARGE:
            pieces = pieces[::_EVERY]
        lines.append(_line(recipe.name, pieces))
    text = "\n".join([*lines, "", f"({machine()})"])
    print(text)
    if arguments.record:
        write_block(part.CHOICES, "python -m benchmarks levels --record", text)
    return 0


def _line(name: str, pieces: list[bytes]) -> str:
    ways = [_measured(how, pieces) for how in _WAYS.values()]
    mib = sum(map(len, pieces)) / (1 << 20)
    cells = [f"{each.size / ways[0].size:.3f} {mib / each.seconds:4.0f}/s" for each in ways]
    return f"{name:<15}" + "".join(f"{cell:>14}" for cell in cells)


def _measured(how: int | ZstdSearch, pieces: Sequence[bytes]) -> Packed:
    begun = time.thread_time()
    size = sum(len(compress_zstd(piece, how)) for piece in pieces)
    return Packed(size, time.thread_time() - begun)


def _largest_layer(place: str) -> Iterator[bytes]:
    """The content of the largest layer, in pieces."""
    with closing(open_reader(place)) as reader:
        layers = reader.resolve().manifest.layers
        largest = max(layers, key=lambda layer: layer.size)
        opened: Any = igzip.IGzipFile  # it has no types
        with closing(reader.open_blob(largest)) as stored, opened(fileobj=stored) as content:
            while piece := content.read(_PIECE):
                yield piece
