"""`python -m benchmarks grain`: how much of its chunks a start asks for, and how they are packed.

Each image is converted and started with a trace until it is ready. What the kernel asked for,
its own reading ahead included, is counted in parts of chunks of several sizes, decoded. The first
64 MiB of whole chunks are packed as `nydusify optimize` does, in batches of 1 MiB and growing ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import part
from benchmarks.coverage import DOCUMENT
from benchmarks.images.catalogue.all import chosen
from benchmarks.traced import Start, starts
from fs.format.blobfile import BlobOptions
from fs.format.bootstrap import Bootstrap
from fs.image.trace import Touch
from nydusify.blobs.layer_blob import BlobBuilder
from nydusify.images.opened import ImagePlace, open_image
from nydusify.operations.optimization import LARGEST_BATCH
from nydusify.options import DEFAULT_BATCH_SIZE
from nydusify.startup.startup_set import StartupSet
from nydusify.verbs.optimize import LEVEL

_GRAINS = tuple(kib << 10 for kib in (4, 16, 64, 128, 256, 512, 1024))
_PACKED = 64 << 20
_IMAGES = "python,node,mariadb"


@dataclass(frozen=True)
class Grain:
    """Bytes: `asked` for at each grain, and the chunks' as stored in batches of either kind."""

    image: str
    asked: Sequence[int]
    stored: int
    stored_growing: int


def main(argv: Sequence[str]) -> int:
    arguments = part.parser("grain", __doc__, _IMAGES).parse_args(argv)
    rows = [_measure(start) for start in starts("grain", argv, chosen(arguments.images))]
    part.conclude(arguments, "grain", rows, _table(rows), DOCUMENT)
    return 0


def _measure(start: Start) -> Grain:
    heading, touches = start.trace()
    work = start.work
    with open_image(ImagePlace(start.place), work) as opened, opened.contents(work) as contents:
        bootstrap = opened.bootstrap
        found = StartupSet(bootstrap)
        found.add_touches(touches, heading.blobs, "trace")
        pieces = _first(contents.read_flat(*each) for each in found)
        stored = _stored(pieces, bootstrap, work, 0)
        growing = _stored(pieces, bootstrap, work, LARGEST_BATCH)
        asked = [_asked(bootstrap, touches, grain) for grain in _GRAINS]
        return Grain(start.recipe.name, asked, stored, growing)


def _first(pieces: Iterable[bytes]) -> list[bytes]:
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > _PACKED:
            break
        found.append(piece)
    return found


def _asked(bootstrap: Bootstrap, touches: Sequence[Touch], grain: int) -> int:
    """Bytes of those parts of chunks, each of `grain` bytes, that were touched."""
    tables = [bootstrap.chunk_table(index) for index in range(len(bootstrap.blobs))]
    parts: dict[tuple[int, int, int], int] = {}
    for touch in touches:
        table, end = tables[touch.blob_index], touch.offset + touch.length
        for row in table.rows_between(touch.offset, end):
            start, size = table.uncompressed_offsets[row], table.uncompressed_sizes[row]
            first = max(0, touch.offset - start) // grain
            for number in range(first, -(-min(size, end - start) // grain)):
                parts[touch.blob_index, row, number] = min(grain, size - number * grain)
    return sum(parts.values())


def _stored(pieces: Iterable[bytes], bootstrap: Bootstrap, work: Path, largest: int) -> int:
    options = BlobOptions(bootstrap.chunk_size, bootstrap.compressor, bootstrap.digester)
    with (
        ThreadPoolExecutor(2) as pool,
        closing(
            BlobBuilder(work / "startup", options, pool, batch_size=DEFAULT_BATCH_SIZE,
                        largest_batch=largest, effort=LEVEL)
        ) as builder,
    ):  # fmt: skip
        for piece in pieces:
            builder.add(piece)
        blob = builder.finish()
    assert blob
    return blob.record.compressed_size


def _table(rows: Sequence[Grain]) -> str:
    grains = "".join(f"{f'{grain >> 10} KiB':>9}" for grain in _GRAINS)
    lines = [f"{'image':<12}{grains}{'stored':>9}{'growing':>9}"]
    for row in rows:
        sizes = (*row.asked, row.stored, row.stored_growing)
        lines.append(f"{row.image:<12}" + "".join(f"{size / 1e6:>9.1f}" for size in sizes))
    return "\n".join(lines)
