"""The figures of a conversion: as a table, as JSON, and as progress on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

from fs.format.errors import local_errors


@dataclass(frozen=True)
class LayerFigures:
    """Sizes in bytes, as stored. `chunks` are those of the blob; `shared_chunks`, of `shared_size`
    bytes decoded, were there already: in the layer itself, a lower one or a dictionary.
    `repacked_size` bytes, decoded, were packed a second time, at a higher level.
    `kept`: the layer was converted before, and not now.
    """

    source_digest: str
    source_size: int
    blob_digest: str
    blob_size: int
    chunks: int
    shared_chunks: int
    seconds: float
    shared_size: int = 0
    kept: bool = False
    repacked_size: int = 0


@dataclass(frozen=True)
class Report:
    """`target_size` is all that the target image refers to, `known_blobs` those of a dictionary,
    `known_size` their bytes.

    `startup_size` are the bytes, decoded, of the files that a mount fetches first;
    `startup_blob_size` those, as stored, of the blob with copies of what the start needs.
    """

    source: str
    target: str
    target_digest: str
    platform: str
    bootstrap_size: int
    source_size: int
    target_size: int
    seconds: float
    layers: list[LayerFigures] = field(default_factory=list)
    known_blobs: list[str] = field(default_factory=list)
    known_size: int = 0
    startup_files: int = 0
    startup_size: int = 0
    startup_blob_size: int = 0


@dataclass(frozen=True)
class IndexReport:
    """Of an index: `target_digest` is its own, the images have theirs."""

    source: str
    target: str
    target_digest: str
    seconds: float
    images: list[Report] = field(default_factory=list)


class Progress(Protocol):
    """Told by the conversion how far it is."""

    def step(self, name: str, size: int) -> None:
        """Something of `size` bytes begins (0: not known)."""

    def advance(self, size: int) -> None:
        """So many bytes of it are done."""


class Silence:
    def step(self, name: str, size: int) -> None: ...

    def advance(self, size: int) -> None: ...


@contextmanager
def open_progress(stream: TextIO) -> Iterator[Progress]:
    """A progress bar if `stream` is a terminal, else nothing at all."""
    if not stream.isatty():
        yield Silence()
        return
    from nydusify.progressbar import progress_bar

    with progress_bar(stream) as bar:
        yield bar


def write_json(told: object, path: Path) -> None:
    """What JSON has as it is, in lines; StorageError and its like name the file."""
    with local_errors(path):
        path.write_text(json.dumps(told, indent=2) + "\n")


def table(report: Report | IndexReport) -> str:
    """One line a layer, then the sums; for each image, if there are several."""
    if isinstance(report, Report):
        return _image_table(report)
    parts = [f"{image.platform}\n{_image_table(image)}\n" for image in report.images]
    return "\n".join([*parts, f"{report.target}@{report.target_digest}"])


def _image_table(report: Report) -> str:
    rows = [("layer", "source", "blob", "chunks", "shared", "seconds")]
    for layer in report.layers:
        rows.append(
            (
                layer.source_digest[7:19] or "-",
                size_text(layer.source_size) if layer.source_size else "-",
                size_text(layer.blob_size) if layer.blob_digest else "none",
                str(layer.chunks),
                str(layer.shared_chunks),
                "kept" if layer.kept else f"{layer.seconds:.2f}",
            )
        )
    rows.append(("bootstrap", "", size_text(report.bootstrap_size), "", "", ""))
    if report.startup_files:
        files = f"{report.startup_files} files"
        rows.append(("read first", size_text(report.startup_size), "", files, "", ""))
    if report.startup_blob_size:
        rows.append(("start-up blob", "", size_text(report.startup_blob_size), "", "", ""))
    if saved := sum(layer.shared_size for layer in report.layers):
        rows.append(("not stored again", size_text(saved), "", "", "", ""))
    if report.known_blobs:
        blobs = f"{len(report.known_blobs)} blobs"
        rows.append(("dictionary", "", size_text(report.known_size), blobs, "", ""))
    if repacked := [layer.repacked_size for layer in report.layers if layer.repacked_size]:
        layers = f"{len(repacked)} layer{'s' if len(repacked) > 1 else ''}"
        rows.append(("packed again", size_text(sum(repacked)), "", layers, "", ""))
    chunks = sum(layer.chunks for layer in report.layers)
    shared = sum(layer.shared_chunks for layer in report.layers)
    sizes = (size_text(report.source_size), size_text(report.target_size))
    rows.append(("total", *sizes, str(chunks), str(shared), f"{report.seconds:.2f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, f"{report.target}@{report.target_digest}"])


def size_text(size: int) -> str:
    """Bytes for people, in powers of 1024."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"
