"""Images in a registry, as a reader and a writer.

The tag is asked for once: a reader shows one image, even if the tag moves
meanwhile. A download that breaks goes on where it was.

Where there are mirrors, a blob of up to 256 MiB is on disk and verified before its
first byte is handed out, so that a mirror that lies costs a second download and no
more. A larger one is verified while it is read, and a lie ends in VerifyError.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import BinaryIO, cast

from fs.format.errors import FormatError, UsageError, VerifyError, local_errors
from fs.registry.body import PIECE, BlobBody
from fs.registry.client import RegistryClient
from fs.registry.config import MAX_CONFIG
from fs.registry.descriptor import Descriptor
from fs.registry.digest import check_bytes, verified
from fs.registry.failover import Hosts
from fs.registry.headstart import HeadStart, Opened
from fs.registry.hosts import Host, find_hosts
from fs.registry.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest
from fs.registry.places import Body, Image, OnManifest, Progress, StoreOptions
from fs.registry.platform import Platform
from fs.registry.reference import Reference
from fs.registry.referrers import add_to_fallback, find_referrers
from fs.registry.resolution import resolve_image
from fs.registry.retry import RetryPolicy, TemporaryFault
from fs.registry.transport import STEP
from fs.registry.upload import check_upload, mount_blob, upload_blob

_MAX_SPOOLED = 256 << 20
_MAX_BROUGHT = 1024
#: Connections for what a manifest names: its configuration comes over the manifest's own.
_SPARE = 2


class RegistryReader:
    """An ImageReader of a reference."""

    def __init__(
        self,
        reference: Reference,
        options: StoreOptions,
        hosts: tuple[Host, ...] | None = None,
        shared: Hosts | None = None,
    ) -> None:
        """`shared` are hosts with their connections, that somebody else closes."""
        self._reference = reference
        self._options = options
        self._hosts = shared or Hosts(reference, options, hosts)
        self._owns_hosts = shared is None
        self._retry = options.retry
        self._documents = options.documents
        self._lock = threading.Lock()
        self._known_top: Manifest | Index | None = None
        self._brought: OrderedDict[tuple[str, int, int], set[RegistryClient]] = OrderedDict()
        self._begun: dict[str, HeadStart] = {}

    @property
    def name(self) -> str:
        return self._reference.familiar

    @property
    def reference(self) -> Reference:
        return self._reference

    def anew(self, retry: RetryPolicy) -> RegistryReader:
        """A reader of what the reference means now, over the same connections.

        Closing it closes none of them.
        """
        options = replace(self._options, retry=retry)
        return RegistryReader(self._reference, options, shared=self._hosts)

    def resolve(
        self,
        platform: Platform | None = None,
        *,
        nydus: bool = False,
        found: OnManifest | None = None,
    ) -> Image:
        top = self._top(_SPARE if found else 0)
        return resolve_image(self, top, None, platform, nydus=nydus, found=found)

    def index(self) -> Index | None:
        top = self._top()
        return top if isinstance(top, Index) else None

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        if not self._hosts.several or descriptor.size > _MAX_SPOOLED:
            return self._stream(self._download(descriptor), descriptor)
        while True:
            download = self._download(descriptor)
            try:
                return _spooled(self._stream(download, descriptor))
            except VerifyError:
                if not self._hosts.doubt(download.sources, descriptor.digest):
                    raise

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            raise FormatError(
                f"{descriptor.digest} has {descriptor.size} bytes, at most {limit}", self.name
            )
        documents = self._documents if limit <= MAX_CONFIG else None
        kept = documents.read_document(descriptor) if documents else None
        if kept is not None:
            check_bytes(kept, descriptor.digest, descriptor.size, self.name)
            return kept
        with self.open_blob(descriptor) as stream:
            raw = stream.read()
        if documents:
            documents.keep_document(descriptor, raw)
        return raw

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_MANIFEST:
            raise FormatError(f"manifest of {descriptor.size} bytes", self.name)
        raw, _ = self._manifest(descriptor.digest, "pull")
        check_bytes(raw, descriptor.digest, descriptor.size, self.name)
        return raw

    def referrers(self, digest: str) -> list[Descriptor]:
        return self._retry.run(
            lambda: self._hosts.ask(lambda client: find_referrers(client, digest), "pull", digest)
        )

    def blob_size(self, digest: str) -> int:
        def attempt() -> int:
            answer = self._hosts.ask(lambda client: client.blob(digest), "pull", digest)
            answer.close()
            if answer.length is None:
                raise FormatError(f"does not say what size {digest} has", self.name)
            return answer.length

        return self._retry.run(attempt)

    def read_range(self, blob: Descriptor | str, offset: int, length: int) -> bytes:
        return b"".join(self.range_pieces(blob, offset, length))

    def range_pieces(self, blob: Descriptor | str, offset: int, length: int) -> Iterator[bytes]:
        """What `read_range` returns, piece by piece as it comes."""
        if length <= 0:
            return
        digest = blob if isinstance(blob, str) else blob.digest
        pieces, opened = self._head(digest, offset, length)
        come = sum(map(len, pieces))
        part = Download(
            self._hosts, self._retry, digest, offset + come, offset + length, self.name, opened
        )
        with closing(part):
            left = length
            for piece in pieces:
                yield piece[:left]
                left -= min(left, len(piece))
            if opened and not left:
                self._hosts.well(opened[0])
            while left:
                piece = part.read(min(STEP, left))
                left -= len(piece)
                yield piece
        self._remember((digest, offset, length), part.sources)

    def begin(self, blob: Descriptor) -> None:
        """Ask for all of a blob: who soon reads most of it, from its first byte, finds it come."""

        def ask() -> Opened:
            return self._hosts.ask(
                lambda client: (client, client.blob(blob.digest, 0, blob.size - 1)),
                "pull",
                blob.digest,
            )

        with self._lock:
            if blob.size and blob.digest not in self._begun:
                self._begun[blob.digest] = HeadStart(blob.size, ask)

    def _head(self, digest: str, offset: int, length: int) -> tuple[list[bytes], Opened | None]:
        """What of a range was asked for before, and has come."""
        with self._lock:
            begun = self._begun.get(digest)
            if begun is None or not begun.suits(offset, length):
                return [], None
            del self._begun[digest]
        return begun.take()

    def reject(self, digest: str, offset: int, length: int) -> bool:
        with self._lock:
            sources = self._brought.pop((digest, offset, length), None)
        return sources is not None and self._hosts.doubt(sources, digest)

    def close(self) -> None:
        with self._lock:
            while self._begun:
                self._begun.popitem()[1].close()
        if self._owns_hosts:
            self._hosts.close()

    def _download(self, descriptor: Descriptor) -> Download:
        return Download(
            self._hosts, self._retry, descriptor.digest, 0, descriptor.size, self.name, whole=True
        )

    def _stream(self, download: Download, descriptor: Descriptor) -> BinaryIO:
        body = cast(BinaryIO, download)
        return verified(body, descriptor.digest, descriptor.size, self.name)

    def _remember(self, part: tuple[str, int, int], sources: set[RegistryClient]) -> None:
        """Who brought a range, in case it turns out to be wrong."""
        if self._hosts.several:
            with self._lock:
                self._brought[part] = sources
                if len(self._brought) > _MAX_BROUGHT:
                    self._brought.popitem(last=False)

    def _top(self, spare: int = 0) -> Manifest | Index:
        with self._lock:
            if self._known_top is None:
                self._known_top = self._fetch_top(spare)
            return self._known_top

    def _fetch_top(self, spare: int) -> Manifest | Index:
        capability = "pull" if self._reference.digest else "resolve"
        raw, media_type = self._manifest(self._reference.target, capability, spare)
        return parse_manifest(raw, media_type, self.name)

    def _manifest(self, target: str, capability: str, spare: int = 0) -> tuple[bytes, str]:
        client, answer = self._retry.run(
            lambda: self._hosts.ask(
                lambda client: (client, client.manifest(target, spare)), capability, target
            )
        )
        self._hosts.well(client)
        return answer


class RegistryWriter:
    """An ImageWriter to a reference with a tag."""

    def __init__(self, reference: Reference, options: StoreOptions) -> None:
        if reference.tag is None or reference.digest is not None:
            raise UsageError(f"{reference.familiar}: a target is named by a tag, not by a digest")
        self._reference = reference
        self._client = RegistryClient(reference, options, _push_host(reference, options))
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
        upload_blob(self._client, descriptor, content, progress)
        self._there.add(descriptor.digest)

    def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:
        own = self._reference
        if self.has_blob(descriptor):
            return True
        if source.domain != own.domain or source.repository == own.repository:
            return False
        mounted = self._client.retry.run(
            lambda: mount_blob(self._client, descriptor.digest, source.repository)
        )
        if mounted:
            self._there.add(descriptor.digest)
        return mounted

    def push_manifest(self, raw: bytes, media_type: str, *, tag: bool) -> Descriptor:
        document = parse_manifest(raw, media_type, self.name)
        target = self._reference.target if tag else document.digest
        noted = self._client.put_manifest(target, raw, document.media_type)
        if isinstance(document, Manifest) and document.subject and not noted:
            add_to_fallback(self._client, document.subject.digest, document)
        return Descriptor(document.media_type, document.digest, len(raw))

    def close(self) -> None:
        self._client.close()


def _push_host(reference: Reference, options: StoreOptions) -> Host:
    """The first host that may be pushed to, as containerd chooses it."""
    for host in find_hosts(reference, options):
        if "push" in host.capabilities:
            return host
    raise UsageError(f"{reference.familiar}: hosts.toml names no host that can push")


def _spooled(stream: BinaryIO) -> BinaryIO:
    """All of a verified stream, in a file without a name."""
    with stream, local_errors("temporary file"):
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
        try:
            shutil.copyfileobj(stream, file, PIECE)
            file.seek(0)
        except BaseException:
            file.close()
            raise
    return file


class Download:
    """Bytes `start` to `end` of a blob in order, across broken links and hosts; not verified.

    `sources` are the hosts that brought them. `opened` is an answer that is at `start`.
    `whole`: that is all of the blob.
    """

    def __init__(
        self,
        hosts: Hosts,
        retry: RetryPolicy,
        digest: str,
        start: int,
        end: int,
        name: str,
        opened: Opened | None = None,
        *,
        whole: bool = False,
    ) -> None:
        self.sources: set[RegistryClient] = {opened[0]} if opened else set()
        self._hosts = hosts
        self._retry = retry
        self._digest = digest
        self._position = start
        self._end = end
        self._name = name
        self._whole = whole
        self._at = opened

    def read(self, length: int) -> bytes:
        return self._retry.run(lambda: self._read_on(length))

    def close(self) -> None:
        if self._at:
            self._at[1].close()
            self._at = None

    def _read_on(self, length: int) -> bytes:
        """Read from the connection at hand, or from a new one at the same place."""
        left = self._end - self._position
        client, answer = self._at = self._at or self._open()
        try:
            piece = answer.read(length)
            if not piece and left > 0:
                raise TemporaryFault(f"{self._name}: {self._digest} ended {left} bytes early")
        except TemporaryFault:
            self._hosts.rest(client)
            self.close()
            raise
        self._position += len(piece)
        if self._position == self._end:
            self._hosts.well(client)
        return piece

    def _open(self) -> Opened:
        opened = self._hosts.ask(self._open_at, "pull", self._digest)
        self.sources.add(opened[0])
        return opened

    def _open_at(self, client: RegistryClient) -> Opened:
        last = None if self._whole else self._end - 1
        answer = client.blob(self._digest, self._position, last)
        known = self._whole and answer.status == 200 and answer.length is not None
        if known and answer.length != self._end:
            answer.close()
            raise VerifyError(
                f"{self._name}: {self._digest} has {answer.length} "
                f"bytes there, {self._end} were promised"
            )
        return client, answer
