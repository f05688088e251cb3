"""Blobs where the image itself is kept: its registry repository or OCI layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fs.backend.blobs import checked_digest
from fs.registry.descriptor import Descriptor
from fs.registry.store import ImageReader


class ImageBackend:
    """Over a reader of images; owns it."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader

    @property
    def reader(self) -> ImageReader:
        return self._reader

    def begin(self, blob: Descriptor) -> None:
        """Say that a blob will soon be read from its beginning: what is far away is asked for."""
        begin: Callable[[Descriptor], None] | None = getattr(self._reader, "begin", None)
        if begin is not None:
            begin(blob)

    def read(self, blob: str, offset: int, length: int) -> bytes:
        return self._reader.read_range(checked_digest(blob), offset, length)

    def pieces(self, blob: str, offset: int, length: int) -> Iterator[bytes]:
        """What `read` returns, as it comes."""
        return self._reader.range_pieces(checked_digest(blob), offset, length)

    def reject(self, blob: str, offset: int, length: int) -> bool:
        """Say that what `read` brought was wrong; whether another mirror is left to ask."""
        return self._reader.reject(checked_digest(blob), offset, length)

    def close(self) -> None:
        self._reader.close()
