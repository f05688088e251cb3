"""The layers that a Nydus image was made of, where they are still beside it.

An image with a subject, or beside plain ones in an index, names its source; one made by
--oci-ref consists of the source's layers itself. Nothing of that is believed: what they
show is compared with what the image shows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from fs.format.blobtable import BlobFeature, BlobRecord, Compressor
from fs.format.errors import Failure, FormatError
from fs.format.tree import Node
from fs.image.contents import Contents
from fs.registry.copying import copy_below, copy_blob
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import is_nydus
from fs.registry.mediatypes import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from fs.registry.platform import Platform
from fs.registry.resolution import image_at
from fs.registry.store import Image, ImageReader, ImageWriter
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from nydusify.checks.filesystem import read_layer, tree_of_image, tree_of_layers
from nydusify.images.opened import OpenedImage
from nydusify.layers.layer import Layer
from nydusify.layers.merge import apply
from nydusify.layers.sources import stored_image
from nydusify.layers.split import Difference, DifferenceEntries
from nydusify.outputs.plain import PlainLayer, make_layer
from nydusify.report import Progress

_TYPES = {
    Compressor.GZIP: OCI_LAYER_GZIP,
    Compressor.ZSTD: OCI_LAYER_ZSTD,
    Compressor.NONE: OCI_LAYER,
}


@dataclass(frozen=True)
class Originals:
    """Of one opened Nydus image of `platform`; `say` takes notes for the user."""

    opened: OpenedImage
    contents: Contents
    platform: Platform | None
    progress: Progress
    say: Callable[[str], None]

    def source(self) -> Image | None:
        """The ordinary image that this one was made of, if it is there and shows the same."""
        reader = self.opened.reader
        assert reader
        for find in (self._subject, self._neighbour):
            with suppress(Failure):
                found = find(reader)
                if found is None or is_nydus(found.manifest):
                    continue
                layers = stored_image(reader, found).layers
                below = tree_of_layers(layers, self.progress)
                if not Difference(below, self._tree(), self.contents):
                    return found
                digest = found.descriptor.digest
                self.say(f"note: {digest[:19]}… is named as its source, and shows other files")
        return None

    def copy(self, image: Image, writer: ImageWriter) -> tuple[Descriptor, int]:
        """The source as it is; its manifest's descriptor and size."""
        assert self.opened.reader
        manifest = image.manifest
        self.progress.step("copying the original", 0)
        copy_below(manifest, self.opened.reader, writer, self.progress.advance)
        pushed = writer.push_manifest(manifest.raw, manifest.media_type, tag=True)
        size = sum(layer.size for layer in manifest.layers)
        return pushed, len(manifest.raw) + manifest.config.size + size

    def referred(
        self, writer: ImageWriter, work: Path, compression: str
    ) -> list[PlainLayer] | None:
        """The layers that all blobs are, copied, and one that makes up for what they lack."""
        records = self.opened.bootstrap.blobs
        if not records or not all(each.features & BlobFeature.SEPARATE for each in records):
            return None
        root = Node(0o40755)
        layers = [self._layer(record, root, writer) for record in records]
        difference = Difference(root, self._tree(), self.contents)
        if difference:
            entries = DifferenceEntries(self.contents, difference)
            layers.append(make_layer(entries, work / "top.tar", compression))
        return layers

    def _layer(self, record: BlobRecord, below: Node, writer: ImageWriter) -> PlainLayer:
        """One layer, put on the tree `below`."""
        reader = self.opened.reader
        assert reader
        name = f"{self.opened.name}: layer {record.blob_id[:12]}…"
        media_type = _TYPES.get(Compressor(record.compressor))
        if media_type is None:
            raise FormatError("is compressed as no layer is", name)
        digest = f"sha256:{record.blob_id}"
        descriptor = Descriptor(media_type, digest, reader.blob_size(digest))
        self.progress.step(f"reading {digest[:19]}", descriptor.size)
        layer = Layer(name)
        with closing(reader.open_blob(descriptor)) as stored, ThreadPoolExecutor(1) as pool:
            stream = LayerStream(stored, name, pool)
            try:
                read_layer(TarReader(stream), layer)
                diff_id = stream.drain()
            finally:
                stream.stop()
        apply(below, layer.finish())
        copy_blob(descriptor, reader, writer, self.progress.advance)
        return PlainLayer(None, descriptor, diff_id, is_own=False)

    def _tree(self) -> Node:
        return tree_of_image(self.contents)

    def _subject(self, reader: ImageReader) -> Image | None:
        assert self.opened.image
        subject = self.opened.image.manifest.subject
        return image_at(reader, subject) if subject else None

    def _neighbour(self, reader: ImageReader) -> Image | None:
        return reader.resolve(self.platform) if reader.index() else None
