"""Where images are kept: the reader or the writer of a place, by what its name begins with.

[docker://]REFERENCE             a registry
oci:DIR[:TAG]                    an OCI image layout
oci-archive:FILE[:TAG]           the same in a tar file (reading only)
docker-archive:FILE[:NAME:TAG]   what `docker save` writes
containerd:NAME                  the content store of a local containerd (reading only)
"""

from __future__ import annotations

import os
from collections.abc import Callable

from fs.format.errors import NotFoundError, UsageError
from fs.registry.places import (
    Body,
    DocumentCache,
    Image,
    ImageReader,
    ImageWriter,
    OnManifest,
    Progress,
    StoreOptions,
)
from fs.registry.reference import Reference, parse_reference
from fs.registry.retry import RetryPolicy

__all__ = [
    "Body",
    "DocumentCache",
    "Image",
    "ImageReader",
    "ImageWriter",
    "OnManifest",
    "Progress",
    "StoreOptions",
    "open_again",
    "open_reader",
    "open_writer",
    "registry_reference",
]


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
