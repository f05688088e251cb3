"""What all places of images have in common: how they are read and written, and reached.

What a reader returns is verified by digest, except `read_range`, whose callers
verify chunks. A writer shows nothing under the target's name before the last
`push_manifest(tag=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from fs.registry.config import ImageConfig
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import Index, Manifest
from fs.registry.platform import Platform
from fs.registry.reference import Reference
from fs.registry.retry import RetryPolicy

Progress = Callable[[int], None]
#: A function opens the content anew for each attempt, and only if it is needed at all.
Body = BinaryIO | Path | bytes | Callable[[], BinaryIO]


OnManifest = Callable[[Manifest], None]


class Image(NamedTuple):
    """One image of one platform; `descriptor` points at the manifest."""

    manifest: Manifest
    config: ImageConfig
    descriptor: Descriptor


class ImageReader(Protocol):
    """Thread-safe. `name` is what the user wrote, without credentials."""

    @property
    def name(self) -> str: ...

    @property
    def reference(self) -> Reference | None:
        """The name in a registry, None for other places."""

    def resolve(
        self,
        platform: Platform | None = None,
        *,
        nydus: bool = False,
        found: OnManifest | None = None,
    ) -> Image:
        """The image for `platform` (None: this machine's), verified.

        Where an index has both variants, `nydus` says which one is meant. `found` is told of
        the manifest as soon as that is here, before the configuration is.
        """

    def index(self) -> Index | None:
        """The index, if the name points at one."""

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest or index below the index, verified."""

    def referrers(self, digest: str) -> list[Descriptor]:
        """What says that it refers to a manifest; nothing of it is verified."""

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        """The blob's bytes as stored, as a stream.

        read() raises VerifyError, at the latest in place of the last piece, if the
        digest or size is not the promised one; UnreachableError if the link is lost
        for good.
        """

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """The whole blob, verified; FormatError if it is larger than `limit` bytes."""

    def blob_size(self, digest: str) -> int:
        """Bytes of a blob that no descriptor tells of, as the place says. NOT verified."""

    def read_range(self, blob: Descriptor | str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of a blob (a digest will do). NOT verified."""

    def range_pieces(self, blob: Descriptor | str, offset: int, length: int) -> Iterator[bytes]:
        """The same as it comes, in order."""

    def reject(self, digest: str, offset: int, length: int) -> bool:
        """Say that what `read_range` brought was wrong; whether another place is left to ask."""

    def close(self) -> None: ...


class ImageWriter(Protocol):
    """Thread-safe. Closing before the tag is pushed publishes nothing."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raise now what would keep the first blob from being stored; nothing is changed."""

    def has_blob(self, descriptor: Descriptor) -> bool: ...

    def push_blob(
        self, descriptor: Descriptor, body: Body, progress: Progress | None = None
    ) -> None:
        """Store a blob, unless it is there; VerifyError if `body` is not what it should be.

        `progress` is called with the number of bytes sent since the last call; a
        negative one takes back what has to be sent again.
        A BinaryIO is read from its position and left open; only one that can seek
        can be sent again after a fault.
        """

    def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:
        """Whether the blob is there now, taken from `source` if that is on the same registry."""

    def push_manifest(self, raw: bytes, media_type: str, *, tag: bool) -> Descriptor:
        """Store a manifest or index; with `tag`, publish it under the target's name.

        In a registry, a manifest with a subject is listed among that one's referrers.
        """

    def close(self) -> None: ...


class DocumentCache(Protocol):
    """Keeps small blobs of registries; what it gives is the blob, or None."""

    def read_document(self, descriptor: Descriptor) -> bytes | None: ...

    def keep_document(self, descriptor: Descriptor, raw: bytes) -> None: ...


@dataclass(frozen=True)
class StoreOptions:
    """How registries are reached. Only command lines fill `environment` (with os.environ).

    `plain_http`: http, without asking. `insecure`: certificates are not checked, and
    http is tried where https does not answer. `auth_file`: the only place for logins.
    `hosts_dirs`: mirrors and certificates of registries, see fs/registry/hosts.py.
    `environment`: HOME, DOCKER_CONFIG, REGISTRY_AUTH_FILE, XDG_*, PATH, *_PROXY.
    `containerd_address`, `containerd_namespace`: else those of containerd's environment
    variables, else its own defaults.
    `documents`: where images' configurations are kept between runs.
    Timeouts are in seconds, of one wait each; for all waits of an answer see
    fs/registry/pace.py.
    """

    plain_http: bool = False
    insecure: bool = False
    auth_file: Path | None = None
    ca_file: Path | None = None
    hosts_dirs: tuple[Path, ...] = ()
    containerd_address: str = ""
    containerd_namespace: str = ""
    documents: DocumentCache | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
