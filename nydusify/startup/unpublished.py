"""The start-up set of an image that is being converted, found in its tree and its blobs' files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fs.backend.blobs import BlobBackend
from fs.backend.configured import open_configured
from fs.backend.image import ImageBackend
from fs.format.errors import VerifyError, local_errors
from fs.format.tree import Chunk, Node
from fs.registry.config import parse_config
from fs.registry.documents import encode_json
from fs.registry.store import open_reader
from fs.tar.paths import clean
from nydusify.blobs.layer_blob import Blob
from nydusify.blobs.stored_chunks import StoredChunks
from nydusify.layers.paths import lookup
from nydusify.options import ConvertOptions
from nydusify.startup.converted_tree import ConvertedTree, chunks_of
from nydusify.startup.files import ImageFiles
from nydusify.startup.guess import guess


class BlobFiles:
    """Blobs as the files that a conversion has written or kept, as a backend.

    What is no file any more has arrived where the conversion puts blobs, and is read there.
    """

    def __init__(self, blobs: Sequence[Blob], options: ConvertOptions) -> None:
        self._paths = {blob.record.blob_id: blob.path for blob in blobs}
        self._options = options
        self._there: BlobBackend | None = None

    def read(self, blob: str, offset: int, length: int) -> bytes:
        path = self._paths.get(blob)
        if path is None or not path.is_file():
            return self._elsewhere().read(blob, offset, length)
        with local_errors(path), path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise VerifyError(f"{path}: ends inside of a chunk")
        return data

    def close(self) -> None:
        if self._there is not None:
            self._there.close()

    def _elsewhere(self) -> BlobBackend:
        options = self._options
        if self._there is None and options.form.backend is not None:
            self._there = open_configured(options.form.backend, options.target_store)
        elif self._there is None:
            self._there = ImageBackend(open_reader(options.target, options.target_store))
        return self._there


class Startup(NamedTuple):
    """What a start reads, in about its order: files as a whole, and all of it as chunks."""

    files: list[Node]
    chunks: list[Chunk]


def told(root: Node, nodes: Iterable[Node], chunk_size: int) -> Startup:
    """Of files that somebody named; a directory stands for all below it."""
    listed = list(dict.fromkeys(nodes))
    files = (file for node in listed if node is not root for file in _files_below(node))
    return Startup(listed, [each for file in files for each in _whole(file, chunk_size)])


def guessed(
    root: Node, stored: StoredChunks, config: Mapping[str, Any], chunk_size: int
) -> Startup:
    """Of the image with the configuration `config`. What is not understood adds nothing."""
    tree = ConvertedTree(root, stored, chunk_size, "image")
    parsed = parse_config(encode_json(dict(config)), "configuration")
    files, chunks = [], []
    for want in guess(ImageFiles(tree, tree.read), parsed):
        node = lookup(root, clean(os.fsencode(want.file.path), "start-up file"))
        assert node is not None
        if list(want.spans) == [(0, want.file.size)]:
            files.append(node)
        chunks += chunks_of(node, chunk_size, want.spans)
    return Startup(files, chunks)


def joined(first: Startup, then: Startup) -> Startup:
    """Both, everything once."""
    return Startup(
        list(dict.fromkeys(first.files + then.files)),
        list(dict.fromkeys(first.chunks + then.chunks)),
    )


def _whole(node: Node, chunk_size: int) -> list[Chunk]:
    return chunks_of(node, chunk_size, [(0, node.size)]) if node.size else []


def _files_below(node: Node) -> Iterator[Node]:
    if stat.S_ISREG(node.mode):
        yield node
    for _, child in sorted(node.children.items()):
        yield from _files_below(child)
