"""From the document that a name points at down to one image of one platform.

The same for every kind of store: each step is read by digest and verified, and
indexes may nest only a little.
"""

from __future__ import annotations

from typing import Protocol

from fs.format.errors import FormatError, NotFoundError
from fs.registry.config import MAX_CONFIG, parse_config
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import Index, Manifest, parse_manifest
from fs.registry.mediatypes import CONFIG_TYPES
from fs.registry.platform import Platform, default_platform
from fs.registry.store import Image

_MAX_NESTING = 4


class DocumentSource(Protocol):
    @property
    def name(self) -> str: ...

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest's bytes, verified."""

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes: ...


def resolve_image(
    source: DocumentSource,
    top: Manifest | Index,
    descriptor: Descriptor | None,
    platform: Platform | None,
    *,
    nydus: bool,
) -> Image:
    """The image below `top`; `descriptor` is top's own, None if it is not stored as such."""
    wanted = platform or default_platform()
    document = top
    for _ in range(_MAX_NESTING):
        if isinstance(document, Manifest):
            own = descriptor or _descriptor(document)
            return _with_config(source, document, own, platform)
        descriptor = document.select(wanted, source.name, nydus=nydus)
        where = f"{source.name}: {descriptor.digest}"
        document = parse_manifest(source.read_manifest(descriptor), descriptor.media_type, where)
    raise FormatError("indexes are nested too deep", source.name)


def _descriptor(manifest: Manifest) -> Descriptor:
    return Descriptor(manifest.media_type, manifest.digest, len(manifest.raw))


def _with_config(
    source: DocumentSource, manifest: Manifest, descriptor: Descriptor, asked: Platform | None
) -> Image:
    if manifest.config.media_type not in CONFIG_TYPES:
        kind = manifest.artifact_type or manifest.config.media_type
        raise FormatError(f"is an artifact of type {kind[:120]!r}, no container image", source.name)
    raw = source.read_blob(manifest.config, MAX_CONFIG)
    config = parse_config(raw, f"{source.name}: configuration")
    known = config.platform.os and config.platform.architecture
    if asked and known and asked.rank(config.platform) is None:
        raise NotFoundError(f"{source.name}: image is for {config.platform}, not for {asked}")
    return Image(manifest, config, descriptor)
