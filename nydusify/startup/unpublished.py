"""The guess for an image that is being converted, read from its blobs before they are published."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fs.backend.blobs import BlobBackend
from fs.backend.configured import open_configured
from fs.backend.image import ImageBackend
from fs.format.errors import VerifyError, local_errors
from fs.image.contents import Contents, open_contents
from fs.image.tree import map_bootstrap
from fs.registry.config import ImageConfig, parse_config
from fs.registry.store import open_reader
from nydusify.blobs.layer_blob import Blob
from nydusify.options import ConvertOptions
from nydusify.outputs.publish import encode_json
from nydusify.startup.files import ImageFiles
from nydusify.startup.guess import guess
from nydusify.startup.wanted import Want


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


class Unpublished(NamedTuple):
    """An image that is whole, but for its bootstrap's prefetch table."""

    contents: Contents
    config: ImageConfig

    def guess(self) -> list[Want]:
        """What its start is thought to read."""
        return guess(ImageFiles(self.contents.bootstrap, self.contents.read), self.config)


@contextmanager
def open_unpublished(
    bootstrap: Path, files: BlobFiles, config: Mapping[str, Any], work: Path
) -> Iterator[Unpublished]:
    """The image of a bootstrap file and `files`; what is decoded lies below `work` meanwhile."""
    with ExitStack() as stack:
        opened = map_bootstrap(str(bootstrap))
        stack.callback(opened.close)
        stack.enter_context(closing(files))
        contents = stack.enter_context(open_contents(opened, files, str(work / "startup")))
        yield Unpublished(contents, parse_config(encode_json(dict(config)), "configuration"))
