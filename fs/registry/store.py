"""Where images are kept: the reader and the writer that every kind of place implements.

    [docker://]REFERENCE             a registry
    oci:DIR[:TAG]                    an OCI image layout
    oci-archive:FILE[:TAG]           the same in a tar file (reading only)
    docker-archive:FILE[:NAME:TAG]   what `docker save` writes
    containerd:NAME                  the content store of a local containerd (reading only)

What a reader returns is verified by digest, except `read_range`, whose callers
verify chunks. A writer shows nothing under the target's name before the last
`push_manifest(tag=True)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from fs.format.errors import NotFoundError, UsageError
from fs.registry.config import ImageConfig
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import Index, Manifest
from fs.registry.platform import Platform
from fs.registry.reference import Reference, parse_reference
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


def open_reader(text: str, options: StoreOptions | None = None) -> ImageReader:
    """A reader of the place that `text` names. Nothing is asked of a server yet."""
    options = options or StoreOptions()
    kind, rest = _split_place(text)
    if kind == "oci":
        from fs.registry.layout import open_layout

        return open_layout(rest, text)
    if kind in ("oci-archive", "docker-archive"):
        from fs.registry.archive import open_archive

        return open_archive(kind, rest, text)
    if kind == "containerd":
        from fs.registry.containerd import ContainerdReader

        return ContainerdReader(rest, options)
    if rest.startswith(("/", "./", "../")):
        what = "a directory; is it oci:DIR?" if os.path.isdir(rest) else "no such file"
        raise NotFoundError(f"{text}: {what}")
    from fs.registry.remote import RegistryReader

    return RegistryReader(parse_reference(rest), options)


def open_again(reader: ImageReader, text: str, options: StoreOptions) -> ImageReader:
    """A reader of what `text` means now, over the connections that `reader` has to there.

    It is to be closed before `reader`.
    """
    anew: Callable[[RetryPolicy], ImageReader] | None = getattr(reader, "anew", None)
    return open_reader(text, options) if anew is None else anew(options.retry)


def open_writer(text: str, options: StoreOptions | None = None) -> ImageWriter:
    """A writer to the place that `text` names."""
    options = options or StoreOptions()
    kind, rest = _split_place(text)
    if kind == "oci":
        from fs.registry.layout import split_layout_place
        from fs.registry.layout_writer import LayoutWriter

        return LayoutWriter(*split_layout_place(rest, text), text)
    if kind == "docker-archive":
        from fs.registry.archive_writer import open_archive_writer

        return open_archive_writer(rest, text)
    if kind in ("oci-archive", "containerd"):
        raise UsageError(f"{text}: {kind} is for reading only; use oci: or docker-archive:")
    from fs.registry.remote import RegistryWriter

    return RegistryWriter(parse_reference(rest), options)


def registry_reference(text: str) -> Reference | None:
    """The reference that a place is, None for places in no registry."""
    kind, rest = _split_place(text)
    return parse_reference(rest) if kind == "registry" else None


_KINDS = ("oci", "oci-archive", "docker-archive", "containerd")
#: What docker would read as a repository of that name with a tag.
_NO_IMAGES = ("dir", "layer")


def _split_place(text: str) -> tuple[str, str]:
    """Kind and rest of a place; kind "registry" for a reference."""
    kind, colon, rest = text.partition(":")
    if colon and kind in _KINDS:
        if not rest:
            raise UsageError(f"{text} lacks a path")
        return kind, rest
    if colon and kind in _NO_IMAGES:
        raise UsageError(f"{text}: {kind}: is no image, only a source of nydusify convert")
    return "registry", text.removeprefix("docker://")
