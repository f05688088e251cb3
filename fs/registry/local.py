"""What readers of places on this machine share: no referrers, no mirrors, no link that breaks.

Such a place may come from anywhere: all but ranges is verified on the way out, as from a
registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import BinaryIO

from fs.format.errors import FormatError, VerifyError
from fs.registry.descriptor import Descriptor
from fs.registry.digest import verified
from fs.registry.files import LayoutFiles
from fs.registry.manifest import MAX_MANIFEST, Index, Manifest
from fs.registry.places import Image, OnManifest
from fs.registry.platform import Platform
from fs.registry.resolution import resolve_image


class LocalReader(ABC):
    """An ImageReader from what its kind of place has: a top document, and bytes by digest."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def blob_size(self, digest: str) -> int: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _top(self) -> tuple[Descriptor | None, Manifest | Index]:
        """What the name points at; no descriptor for a document that was made here."""

    @abstractmethod
    def _open(self, descriptor: Descriptor) -> BinaryIO:
        """The bytes as they are; nothing verified."""

    @abstractmethod
    def _read_at(self, digest: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`."""

    @property
    def reference(self) -> None:
        return None

    def referrers(self, digest: str) -> list[Descriptor]:
        return []

    def resolve(
        self,
        platform: Platform | None = None,
        *,
        nydus: bool = False,
        found: OnManifest | None = None,
    ) -> Image:
        descriptor, top = self._top()
        return resolve_image(self, top, descriptor, platform, nydus=nydus, found=found)

    def index(self) -> Index | None:
        descriptor, top = self._top()
        return top if descriptor and isinstance(top, Index) else None

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        return verified(self._open(descriptor), descriptor.digest, descriptor.size, self.name)

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            raise FormatError(
                f"{descriptor.digest} has {descriptor.size} bytes, at most {limit}", self.name
            )
        with self.open_blob(descriptor) as stream:
            return stream.read()

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        return self.read_blob(descriptor, MAX_MANIFEST)

    def read_range(self, blob: Descriptor | str, offset: int, length: int) -> bytes:
        digest = blob if isinstance(blob, str) else blob.digest
        data = self._read_at(digest, offset, length)
        if len(data) != length:
            raise VerifyError(f"{self.name}: {digest} ends before byte {offset + length}")
        return data

    def range_pieces(self, blob: Descriptor | str, offset: int, length: int) -> Iterator[bytes]:
        yield self.read_range(blob, offset, length)

    def reject(self, digest: str, offset: int, length: int) -> bool:
        return False


class FilesReader(LocalReader):
    """Blobs that are files of a directory or an archive; closes the files with itself."""

    def __init__(self, files: LayoutFiles) -> None:
        self._files = files

    @abstractmethod
    def _path(self, digest: str) -> str:
        """The file of a blob; NotFoundError where only a list could tell it and does not."""

    @property
    def name(self) -> str:
        return self._files.name

    def blob_size(self, digest: str) -> int:
        return self._files.size(self._path(digest))

    def close(self) -> None:
        self._files.close()

    def _open(self, descriptor: Descriptor) -> BinaryIO:
        path = self._path(descriptor.digest)
        found = self._files.size(path)
        if found != descriptor.size:
            raise VerifyError(
                f"{self.name}: {path} has {found} bytes, {descriptor.size} were promised"
            )
        return self._files.open(path)

    def _read_at(self, digest: str, offset: int, length: int) -> bytes:
        return self._files.read_at(self._path(digest), offset, length)
