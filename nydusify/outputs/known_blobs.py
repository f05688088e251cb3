"""The chunk dictionary of a conversion, opened; its blobs, brought to where the image goes.

An image that refers to blobs of another one has them among its own layers, so that whoever
can pull the image can pull them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.blobtable import BlobRecord
from fs.format.errors import UsageError, local_errors
from fs.registry.copying import copy_blob
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.destination import Destination, blob_layer, push_blob
from nydusify.blobs.layer_blob import Blob
from nydusify.options import ConvertOptions
from nydusify.report import Progress

if TYPE_CHECKING:
    from nydusify.images.opened import OpenedImage

_KINDS = ("registry", "local")


class KnownBlobs:
    """`chunks` are for the conversion; files are made in `work`."""

    def __init__(self, opened: OpenedImage, chunk_size: int, work: Path) -> None:
        self.chunks = ChunkDictionary(opened.bootstrap, chunk_size)
        self._opened = opened
        self._work = work

    def provide(self, record: BlobRecord, destination: Destination, progress: Progress) -> Blob:
        """Have the blob at the destination; UsageError if it is not there, nor anywhere known."""
        blob = Blob(self._work / record.blob_id, record, self._meta(record))
        layer = blob_layer(blob)
        reader, storage = self._opened.reader, destination.storage
        if storage is not None:
            there = storage.has(record.blob_id, layer.size)
        else:
            there = destination.writer.has_blob(layer)
        if there:
            return blob
        if reader is None:
            raise UsageError(
                f"{self._opened.name}: blob {record.blob_id[:12]}… of the chunk dictionary is not"
                " at the target; name the dictionary's image in place of its bootstrap"
            )
        progress.step(f"copying {layer.digest[:19]}", layer.size)
        if storage is None:
            copy_blob(layer, reader, destination.writer, progress.advance)
            return blob
        with (
            local_errors(blob.path),
            reader.open_blob(layer) as stored,
            blob.path.open("wb") as file,
        ):
            shutil.copyfileobj(stored, file, 1 << 20)
        push_blob(blob, layer, destination, progress)
        return blob

    def _meta(self, record: BlobRecord) -> bytes:
        """The chunk information that came with the dictionary, if it did."""
        path = self._opened.path.with_name(f"{record.blob_id}.blob.meta")
        with local_errors(path):
            return path.read_bytes() if path.exists() else b""


@contextmanager
def opened_dictionary(options: ConvertOptions, work: Path) -> Iterator[KnownBlobs | None]:
    """The chunk dictionary that `options` name, if they name one."""
    if not options.chunk_dict:
        yield None
        return
    from nydusify.images.opened import ImagePlace, open_image

    place = work / "dictionary"
    with local_errors(place):
        place.mkdir()
    source = ImagePlace(dictionary_source(options.chunk_dict), store=options.chunk_dict_store)
    with open_image(source, place) as opened:
        yield KnownBlobs(opened, options.chunk_size, place)


def dictionary_source(expression: str) -> str:
    """What `--chunk-dict` names, in any of the spellings of nydusify and nydus-image.

    bootstrap:registry:REFERENCE, bootstrap:local:FILE, bootstrap=FILE; a place as it is.
    """
    if expression.startswith("bootstrap="):
        return expression.removeprefix("bootstrap=")
    if not expression.startswith("bootstrap:"):
        return expression
    kind, colon, place = expression.removeprefix("bootstrap:").partition(":")
    if kind not in _KINDS or not colon or not place:
        raise UsageError(
            f"--chunk-dict {expression}: write bootstrap:registry:REFERENCE or bootstrap:local:FILE"
        )
    return place
