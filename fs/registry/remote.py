"""Images in a registry, as a reader and a writer.

The tag is asked for once: a reader shows one image, even if the tag moves
meanwhile. A download that breaks goes on where it was.
"""

from __future__ import annotations

import threading
from typing import BinaryIO, cast

from fs.format.errors import FormatError, UsageError, VerifyError
from fs.registry.body import BlobBody
from fs.registry.client import RegistryClient
from fs.registry.descriptor import Descriptor
from fs.registry.digest import check_bytes, verified
from fs.registry.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest
from fs.registry.platform import Platform
from fs.registry.reference import Reference
from fs.registry.resolution import resolve_image
from fs.registry.retry import TemporaryFault
from fs.registry.store import Body, Image, Progress, StoreOptions
from fs.registry.transport import Answer
from fs.registry.upload import check_upload, upload_blob


class RegistryReader:
    """An ImageReader of a reference."""

    def __init__(self, reference: Reference, options: StoreOptions) -> None:
        self._reference = reference
        self._client = RegistryClient(reference, options)
        self._lock = threading.Lock()
        self._known_top: Manifest | Index | None = None

    @property
    def name(self) -> str:
        return self._reference.familiar

    def resolve(self, platform: Platform | None = None, *, nydus: bool = False) -> Image:
        return resolve_image(self, self._top(), None, platform, nydus=nydus)

    def index(self) -> Index | None:
        top = self._top()
        return top if isinstance(top, Index) else None

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        body = cast(BinaryIO, Download(self._client, descriptor))
        return verified(body, descriptor.digest, descriptor.size, self.name)

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            raise FormatError(
                f"{descriptor.digest} has {descriptor.size} bytes, at most {limit}", self.name
            )
        with self.open_blob(descriptor) as stream:
            return stream.read()

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_MANIFEST:
            raise FormatError(f"manifest of {descriptor.size} bytes", self.name)
        raw, _ = self._client.manifest(descriptor.digest)
        check_bytes(raw, descriptor.digest, descriptor.size, self.name)
        return raw

    def read_range(self, blob: Descriptor | str, offset: int, length: int) -> bytes:
        digest = blob if isinstance(blob, str) else blob.digest
        pieces: list[bytes] = []
        end = offset + length

        def attempt() -> None:
            """Go on from what earlier attempts have brought."""
            position = offset + sum(map(len, pieces))
            answer = self._client.blob(digest, position, end - 1)
            try:
                while position < end and (piece := answer.read(end - position)):
                    pieces.append(piece)
                    position += len(piece)
            finally:
                answer.close()
            if position < end:
                raise TemporaryFault(f"{self.name}: range of {digest} ended early")

        if length > 0:
            self._client.retry.run(attempt)
        return b"".join(pieces)

    def close(self) -> None:
        self._client.close()

    def _top(self) -> Manifest | Index:
        with self._lock:
            if self._known_top is None:
                self._known_top = self._fetch_top()
            return self._known_top

    def _fetch_top(self) -> Manifest | Index:
        raw, media_type = self._client.manifest(self._reference.target)
        return parse_manifest(raw, media_type, self.name)


class RegistryWriter:
    """An ImageWriter to a reference with a tag.

    A blob that is in `mount_from` on the same registry is mounted, not sent.
    """

    def __init__(
        self, reference: Reference, options: StoreOptions, mount_from: Reference | None = None
    ) -> None:
        if reference.tag is None or reference.digest is not None:
            raise UsageError(f"{reference.familiar}: a target is named by a tag, not by a digest")
        self._reference = reference
        self._client = RegistryClient(reference, options)
        self._source = None
        if mount_from and mount_from.domain == reference.domain:
            self._source = mount_from.repository
        self._there: set[str] = set()

    @property
    def name(self) -> str:
        return self._reference.familiar

    def check(self) -> None:
        self._client.retry.run(lambda: check_upload(self._client))

    def has_blob(self, descriptor: Descriptor) -> bool:
        if descriptor.digest not in self._there:
            if not self._client.has_blob(descriptor.digest, descriptor.size):
                return False
            self._there.add(descriptor.digest)
        return True

    def push_blob(
        self, descriptor: Descriptor, body: Body, progress: Progress | None = None
    ) -> None:
        if self.has_blob(descriptor):
            return
        content = BlobBody(body, descriptor, self.name)
        upload_blob(self._client, descriptor, content, self._source, progress)
        self._there.add(descriptor.digest)

    def push_manifest(self, raw: bytes, media_type: str, *, tag: bool) -> Descriptor:
        document = parse_manifest(raw, media_type, self.name)
        target = self._reference.target if tag else document.digest
        self._client.put_manifest(target, raw, document.media_type)
        return Descriptor(document.media_type, document.digest, len(raw))

    def close(self) -> None:
        self._client.close()


class Download:
    """A blob's bytes in order, across broken links; not verified."""

    def __init__(self, client: RegistryClient, descriptor: Descriptor) -> None:
        self._client = client
        self._descriptor = descriptor
        self._position = 0
        self._answer: Answer | None = None

    def read(self, length: int) -> bytes:
        return self._client.retry.run(lambda: self._read_on(length))

    def close(self) -> None:
        if self._answer:
            self._answer.close()
            self._answer = None

    def _read_on(self, length: int) -> bytes:
        """Read from the connection at hand, or from a new one at the same place."""
        left = self._descriptor.size - self._position
        try:
            if self._answer is None:
                self._answer = self._open()
            piece = self._answer.read(length)
            if not piece and left > 0:
                raise TemporaryFault(f"{self._descriptor.digest}: ended {left} bytes early")
        except TemporaryFault:
            self.close()
            raise
        self._position += len(piece)
        return piece

    def _open(self) -> Answer:
        answer = self._client.blob(self._descriptor.digest, self._position)
        whole = answer.status == 200 and answer.length is not None
        if whole and answer.length != self._descriptor.size:
            answer.close()
            raise VerifyError(
                f"{self._client.reference.name}: {self._descriptor.digest} has {answer.length} "
                f"bytes there, {self._descriptor.size} were promised"
            )
        return answer
