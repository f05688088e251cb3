"""File systems over a layer's file that stays as it is, as nydus-image makes them.

A reference needs metadata of its own beside the layer; of a tar that is its own blob (tarfs)
there is the bootstrap alone, and only the whole file has a digest.
"""

from __future__ import annotations

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from fs.format.blobtable import BlobFeature, BlobRecord, Compressor, Digester
from fs.format.errors import FormatError, UsageError, local_errors
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from nydusify.blobs.layer_blob import Blob
from nydusify.images.bootstraps import Stack
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.estargz import table_of_file
from nydusify.layers.layer import Layer
from nydusify.layers.layer_queue import Turn
from nydusify.layers.merge import apply
from nydusify.layers.sources import Advance, Entries, Learned, SourceLayer, StoredLayer
from nydusify.operations.image_conversion import merge_layers
from nydusify.references.contents_table import Unusable, parse_contents_table
from nydusify.references.listed_layer import ListedLayer
from nydusify.references.reference_blob import ReferenceOptions
from nydusify.references.reference_layer import ReferenceLayer

_SECTOR = 512
_ROOT_MODE = stat.S_IFDIR | 0o755

Built = tuple[Stack, list[Blob]]


def refer_to_file(path: Path, chunk_size: int, work: Path) -> Built:
    """A reference to the layer in `path`, which is read once; its blob is the metadata."""
    link = work / "layer"
    link.symlink_to(path.resolve())
    learned = Learned()
    with local_errors(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        table = table_of_file(file)
    stored = StoredLayer(str(path), lambda: path.open("rb"), table, learned)
    source = _source(path, digest, size, stored, learned)
    options = ReferenceOptions(chunk_size, Digester.SHA256)
    layer = ReferenceLayer(source, link, options).read(work / "metadata")
    return _built(source, layer, options)


def refer_by_table(table: Path, blob_id: str, size: int, chunk_size: int, work: Path) -> Built:
    """A reference to the eStargz layer `blob_id` of `size` bytes, by its table in a JSON file."""
    with local_errors(table):
        raw = table.read_bytes()
    source = _source(table, blob_id, size, None, Learned())
    options = ReferenceOptions(chunk_size, Digester.SHA256)
    listed = parse_contents_table(raw, size, Compressor.GZIP, str(table))
    try:
        layer = ListedLayer(source, options).of_table(listed, work / "metadata")
    except Unusable:
        raise FormatError(
            f"does not tell the digests of chunks of {chunk_size} bytes: give --chunk-size as its"
            " maker did, or refer to the layer itself (estargz-ref)",
            str(table),
        ) from None
    return _built(source, layer, options)


def tar_as_blob(path: Path, chunk_size: int) -> Built:
    """The tree of a plain tar over the tar itself, which is the blob `<its sha256>`."""
    layer, chunks = Layer(str(path)), _TarChunks(chunk_size)
    with (
        local_errors(path),
        path.open("rb") as file,
        ThreadPoolExecutor(1, "read") as pool,
    ):
        _refuse_compressed(file, path)
        stream = LayerStream(file, str(path), pool)
        try:
            reader = TarReader(stream)
            for entry in reader:
                node = layer.add(entry)
                if node is None or not entry.size:
                    continue
                if entry.segments is not None:
                    raise FormatError("a sparse file has no place in a tar as it is", str(path))
                chunks.add(node, stream.offset)
            digest = stream.drain().removeprefix("sha256:")
        finally:
            stream.stop()
        size = file.seek(0, 2)
    root = Node(_ROOT_MODE)
    apply(root, layer.finish())
    record = BlobRecord(
        digest,
        chunk_size=chunk_size,
        chunk_count=chunks.count,
        compressor=Compressor.NONE,
        digester=Digester.SHA256,
        features=BlobFeature.TARFS,
        compressed_size=size,
        uncompressed_size=size,
    )
    options = BootstrapOptions(chunk_size, Compressor.NONE, Digester.SHA256, block_size=_SECTOR)
    return Stack(root, [record], options), []


class _TarChunks:
    """Numbers the chunks of files. They have no digests: what stands there tells them apart."""

    def __init__(self, chunk_size: int) -> None:
        self.count = 0
        self._chunk_size = chunk_size

    def add(self, node: Node, start: int) -> None:
        chunks = []
        for place in range(start, start + node.size, self._chunk_size):
            size = min(self._chunk_size, start + node.size - place)
            mark = hashlib.sha256(b"%d" % place).digest()
            chunks.append(Chunk(mark, 0, self.count, place, size, place, size))
            self.count += 1
        node.chunks = chunks


def _refuse_compressed(file: BinaryIO, path: Path) -> None:
    head = file.read(_SECTOR)
    file.seek(0)
    if head[257:262] != b"ustar" and any(head):
        raise UsageError(f"{path}: is no plain tar file, which a tarfs is made of")


def _source(
    path: Path, digest: str, size: int, stored: StoredLayer | None, learned: Learned
) -> SourceLayer:
    return SourceLayer(str(path), f"sha256:{digest}", size, _unopened, learned, stored)


def _unopened(advance: Advance) -> AbstractContextManager[Entries]:
    raise NotImplementedError


def _built(source: SourceLayer, layer: ConvertedLayer, options: ReferenceOptions) -> Built:
    merged = merge_layers([Turn(source, layer, False, 0.0)])
    written = BootstrapOptions(options.chunk_size, Compressor.GZIP, options.digester)
    records = [blob.record for blob in merged.blobs]
    return Stack(merged.root, records, written), list(merged.blobs)
