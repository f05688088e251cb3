"""Writing an image archive: `docker-archive:FILE[:NAME:TAG]`.

The shape is the one of today's `docker save`: an OCI layout in a tar file, with
a manifest.json beside it for those who read only that. It is written to a
temporary file that takes FILE's name when the image is complete.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fs.format.errors import NotFoundError, UsageError, local_errors
from fs.registry.archive import MANIFEST_FILE, split_archive_place
from fs.registry.body import BlobBody
from fs.registry.descriptor import Descriptor
from fs.registry.documents import index_document
from fs.registry.files import blob_path
from fs.registry.layout import CONTAINERD_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME
from fs.registry.layout_writer import LAYOUT_VERSION
from fs.registry.manifest import Index, Manifest, parse_manifest
from fs.registry.places import Body, Progress
from fs.registry.reference import Reference, parse_reference

_BLOCK = 512
_RECORD = 10240


def open_archive_writer(rest: str, text: str) -> ArchiveWriter:
    path, image = split_archive_place(rest, text)
    reference = parse_reference(image) if image else None
    if reference and (reference.digest or not reference.tag):
        raise UsageError(f"{text}: an archive's image is named by a tag, not by a digest")
    return ArchiveWriter(path, reference, text)


class ArchiveWriter:
    """An ImageWriter into a tar file; blobs from several threads queue up."""

    def __init__(self, path: Path, reference: Reference | None, name: str) -> None:
        self._path = path
        self._reference = reference
        self._name = name
        self._lock = threading.Lock()
        self._written: set[str] = set()
        self._manifests: dict[str, Manifest | Index] = {}
        with local_errors(name):
            if path.exists() and not path.is_file():  # a rename would replace even /dev/null
                raise UsageError(f"{name}: is there, and no regular file")
            fd, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        self._temporary: Path | None = Path(temporary)
        self._file: BinaryIO = os.fdopen(fd, "wb")

    @property
    def name(self) -> str:
        return self._name

    def check(self) -> None:
        """The temporary file is there, so there can be more in it."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self._written

    def push_blob(
        self, descriptor: Descriptor, body: Body, progress: Progress | None = None
    ) -> None:
        with self._lock:
            if descriptor.digest in self._written:
                return
            pieces = BlobBody(body, descriptor, self._name).pieces(progress)
            self._append(blob_path(descriptor.digest), descriptor.size, pieces)
            self._written.add(descriptor.digest)

    def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:
        return self.has_blob(descriptor)

    def push_manifest(self, raw: bytes, media_type: str, *, tag: bool) -> Descriptor:
        document = parse_manifest(raw, media_type, self._name)
        descriptor = Descriptor(document.media_type, document.digest, len(raw))
        self.push_blob(descriptor, raw)
        self._manifests[document.digest] = document
        if tag:
            self._publish(descriptor, document)
        return descriptor

    def close(self) -> None:
        """Drop the archive, unless it was published."""
        with suppress(OSError):  # what is still buffered does not count, or was flushed
            self._file.close()
        if self._temporary:
            self._temporary.unlink(missing_ok=True)
            self._temporary = None

    def _publish(self, descriptor: Descriptor, document: Manifest | Index) -> None:
        if self._temporary is None:
            raise UsageError(f"{self._name}: an archive is published once")
        with self._lock, local_errors(self._name):
            self._append_json(LAYOUT_FILE, LAYOUT_VERSION)
            self._append_json(INDEX_FILE, self._index(descriptor))
            self._append_json(MANIFEST_FILE, self._docker_manifest(document))
            self._file.write(bytes(2 * _BLOCK))
            self._file.write(bytes(-self._file.tell() % _RECORD))
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            self._temporary.rename(self._path)
            self._temporary = None

    def _index(self, descriptor: Descriptor) -> dict[str, Any]:
        if self._reference:
            names = {CONTAINERD_NAME: str(self._reference)}
            if self._reference.tag:
                names[REF_NAME] = self._reference.tag
            descriptor = replace(descriptor, annotations=names)
        return index_document([descriptor])

    def _docker_manifest(self, document: Manifest | Index) -> list[dict[str, Any]]:
        names = [self._reference.familiar] if self._reference else None
        return [
            {
                "Config": blob_path(manifest.config.digest),
                "RepoTags": names,
                "Layers": [blob_path(layer.digest) for layer in manifest.layers],
            }
            for manifest in self._images(document)
        ]

    def _images(self, document: Manifest | Index) -> list[Manifest]:
        """The images below `document`, all of whose blobs must be here."""
        if isinstance(document, Index):
            below = (self._manifests.get(entry.digest) for entry in document.manifests)
            return [image for child in below if child for image in self._images(child)]
        for blob in (document.config, *document.layers):
            if blob.digest not in self._written:
                raise NotFoundError(f"{self._name}: {blob.digest} was not written")
        return [document]

    def _append_json(self, path: str, document: object) -> None:
        raw = json.dumps(document).encode()
        self._append(path, len(raw), [raw])

    def _append(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        """Add a member, or leave the archive as it was."""
        with local_errors(self._name):
            start = self._file.tell()
            try:
                self._file.write(_header(path, size))
                for piece in pieces:
                    self._file.write(piece)
                self._file.write(bytes(-size % _BLOCK))
            except BaseException:
                self._file.flush()
                self._file.truncate(start)
                self._file.seek(start)
                raise


def _header(path: str, size: int) -> bytes:
    """A member's header, the same for the same content."""
    info = tarfile.TarInfo(path)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.GNU_FORMAT)
