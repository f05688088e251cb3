"""The conversion of a directory that lies on an image: blobs of its files, and the layer it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fs.format.blobtable import BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.errors import UsageError
from fs.format.tree import Node
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.layer_blob import Blob
from nydusify.layers.layer import Layer
from nydusify.layers.sources import Entries, SourceLayer
from nydusify.layers.upper import UpperEntries
from nydusify.operations.image_conversion import convert_layers
from nydusify.options import ConvertOptions
from nydusify.report import Progress


class ConvertedUpper(NamedTuple):
    """A layer that can be applied, with its blobs; chunks refer to places in `blobs`, then `known`.

    `known` are blobs of what the layer is put on.
    """

    layer: Layer
    blobs: Sequence[Blob]
    known: Sequence[BlobRecord] = ()


def convert_upper(
    directory: Path,
    spec: str,
    options: ConvertOptions,
    work: Path,
    progress: Progress,
    below: Bootstrap,
    without: Collection[bytes] = (),
) -> ConvertedUpper:
    """The blobs of a directory's files, in `work`, and the layer that it is.

    Chunks that `below` has are not stored again: a copied-up file brings only what changed.
    `without` is as of UpperEntries.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no directory")
    opened: list[UpperEntries] = []

    @contextmanager
    def open_entries(advance: Callable[[int], None]) -> Iterator[Entries]:
        opened.append(UpperEntries(directory, spec, advance, without))
        yield opened[-1]

    source = SourceLayer(str(directory), "", 0, open_entries)
    dictionary = ChunkDictionary(below, options.chunk_size)
    converted = convert_layers([source], options, work, progress, dictionary=dictionary)
    layer = Layer(str(directory))
    layer.root = converted.root
    layer.implied = set()
    for path in opened[-1].whiteouts:
        parent, _, name = path.rpartition(b"/")
        layer.whiteouts.setdefault(_at(converted.root, parent), set()).add(name)
    for path in opened[-1].opaque:
        layer.opaque.add(_at(converted.root, path))
    return ConvertedUpper(layer, converted.blobs, converted.known)


def placed_at(upper: ConvertedUpper, names: Sequence[bytes]) -> ConvertedUpper:
    """The same with the directory at `names`, where it hides whatever the layers below have."""
    layer = Layer(upper.layer.name)
    parent = layer.directory(list(names[:-1]), layer.name)
    parent.children[names[-1]] = upper.layer.root
    layer.opaque.add(upper.layer.root)
    return upper._replace(layer=layer)


def _at(root: Node, path: bytes) -> Node:
    for name in filter(None, path.split(b"/")):
        root = root.children[name]
    return root
