"""From the document that a name points at down to one image of one platform.

The same for every kind of store: each step is read by digest and verified, and
indexes may nest only a little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fs.format.errors import FormatError, NotFoundError
from fs.registry.config import MAX_CONFIG, parse_config
from fs.registry.descriptor import Descriptor
from fs.registry.manifest import (
    Index,
    Manifest,
    is_attestation,
    is_nydus,
    is_nydus_entry,
    parse_manifest,
)
from fs.registry.mediatypes import CONFIG_TYPES, NYDUS_ARTIFACT, NYDUS_CONFIG, OCI_CONFIG
from fs.registry.places import Image, ImageReader, OnManifest
from fs.registry.platform import Platform, default_platform

#: Indexes in indexes.
MAX_NESTING = 4
#: What referrers to ask for: our own type, and what nydusify's are listed as.
_REFERRERS = (NYDUS_ARTIFACT, NYDUS_CONFIG, OCI_CONFIG)
_MAX_REFERRERS = 8


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
    found: OnManifest | None = None,
) -> Image:
    """The image below `top`; `descriptor` is top's own, None if it is not stored as such.

    `found` is told of the manifest before the configuration is asked for.
    """
    wanted = platform or default_platform()
    document = top
    for _ in range(MAX_NESTING):
        if isinstance(document, Manifest):
            own = descriptor or _descriptor(document)
            if found is not None:
                found(document)
            return _with_config(source, document, own, platform)
        descriptor = document.select(wanted, source.name, nydus=nydus)
        where = f"{source.name}: {descriptor.digest}"
        document = parse_manifest(source.read_manifest(descriptor), descriptor.media_type, where)
    raise FormatError("indexes are nested too deep", source.name)


def image_at(source: DocumentSource, descriptor: Descriptor) -> Image:
    """The image whose manifest is `descriptor`; FormatError if it is none of one image."""
    where = f"{source.name}: {descriptor.digest}"
    document = parse_manifest(source.read_manifest(descriptor), descriptor.media_type, where)
    if not isinstance(document, Manifest):
        raise FormatError("is an index, where one image is wanted", where)
    return _with_config(source, document, descriptor, None)


def images_below(source: DocumentSource, top: Manifest | Index) -> list[Image]:
    """All plain images, each with its entry of the index as descriptor, for whatever platform.

    Nydus images, attestations and what is no container image are passed over.
    """
    if isinstance(top, Manifest):
        return [_with_config(source, top, _descriptor(top), None)]
    found = []
    for entry, document in _manifests_below(source, top, MAX_NESTING, set()):
        if document.config.media_type in CONFIG_TYPES and not is_nydus(document):
            found.append(_with_config(source, document, entry, None))
    return found


def _manifests_below(
    source: DocumentSource, index: Index, depth: int, seen: set[str]
) -> Iterator[tuple[Descriptor, Manifest]]:
    """Each once, however often it is named."""
    if not depth:
        raise FormatError("indexes are nested too deep", source.name)
    for entry in index.manifests:
        if is_attestation(entry) or is_nydus_entry(entry) or entry.digest in seen:
            continue
        seen.add(entry.digest)
        where = f"{source.name}: {entry.digest}"
        document = parse_manifest(source.read_manifest(entry), entry.media_type, where)
        if isinstance(document, Manifest):
            yield entry, document
        else:
            yield from _manifests_below(source, document, depth - 1, seen)


def find_nydus_referrer(source: ImageReader, digest: str) -> Image | None:
    """The last Nydus image whose subject is the manifest with `digest`; each is looked at."""
    entries = [entry for entry in source.referrers(digest) if entry.artifact_type in _REFERRERS]
    entries.sort(key=lambda entry: entry.artifact_type == NYDUS_ARTIFACT)
    for entry in entries[: -_MAX_REFERRERS - 1 : -1]:
        where = f"{source.name}: referrer {entry.digest}"
        document = parse_manifest(source.read_manifest(entry), entry.media_type, where)
        if not isinstance(document, Manifest) or document.subject is None:
            continue
        if document.subject.digest == digest and is_nydus(document):
            return _with_config(source, document, entry, None)
    return None


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
