"""Manifests and indexes, OCI's and Docker's schema 2, parsed from bytes as stored.

The bytes are kept: an image is what its manifest's digest says, so nothing here
is ever written back from the parsed form. A document that could be read both as
a manifest and as an index is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from fs.format.errors import FormatError, NotFoundError
from fs.registry.descriptor import Descriptor, descriptor_from_json, text_map
from fs.registry.digest import digest_of
from fs.registry.mediatypes import (
    ARTIFACT_MANIFEST,
    DOCKER_SCHEMA1_PREFIX,
    INDEX_TYPES,
    MANIFEST_TYPES,
    NYDUS_ARTIFACT,
    NYDUS_OS_FEATURE,
    OCI_INDEX,
    OCI_MANIFEST,
)
from fs.registry.platform import Platform

MAX_MANIFEST = 4 << 20
_MAX_LAYERS = 4096
_MAX_MANIFESTS = 4096

NYDUS_BOOTSTRAP_ANNOTATION = "containerd.io/snapshot/nydus-bootstrap"
NYDUS_BLOB_ANNOTATION = "containerd.io/snapshot/nydus-blob"
#: On a blob of metadata: the digest of the layer that it is about.
NYDUS_REFERENCE_ANNOTATION = "containerd.io/snapshot/nydus-ref"
#: On a blob that holds what the start needs, and nothing else.
NYDUS_STARTUP_ANNOTATION = "containerd.io/snapshot/nydus-separated-blob-with-prefetch-files"
NYDUS_FS_VERSION_ANNOTATION = "containerd.io/snapshot/nydus-fs-version"
UNCOMPRESSED_ANNOTATION = "containerd.io/uncompressed"


@dataclass(frozen=True)
class Manifest:
    """One image: `layers` from the lowest up. `raw` is what `digest` is of."""

    media_type: str
    config: Descriptor
    layers: list[Descriptor]
    annotations: Mapping[str, str]
    subject: Descriptor | None
    artifact_type: str
    raw: bytes
    digest: str


@dataclass(frozen=True)
class Index:
    """Several manifests under one name, usually one a platform."""

    media_type: str
    manifests: list[Descriptor]
    annotations: Mapping[str, str]
    raw: bytes
    digest: str

    def select(self, platform: Platform, where: str, *, nydus: bool = False) -> Descriptor:
        """The best entry for `platform`; NotFoundError lists what there is.

        Of a plain and a Nydus variant for the same platform, `nydus` says which
        is meant; if only the other one is there, it is taken.
        """
        ranked = []
        for position, entry in enumerate(self.manifests):
            rank = platform.rank(entry.platform) if entry.platform else _UNKNOWN_PLATFORM
            if rank is not None and not is_attestation(entry):
                ranked.append((is_nydus_entry(entry) != nydus, rank, position))
        if ranked:
            return self.manifests[min(ranked)[2]]
        offered = sorted({str(entry.platform) for entry in self.manifests if entry.platform})
        only = f"only for {', '.join(offered)}" if offered else "its index names none"
        raise NotFoundError(f"{where}: no image for {platform}, {only}")


_UNKNOWN_PLATFORM = 1000  # an entry without a platform fits anything, but worse than a match


def is_attestation(entry: Descriptor) -> bool:
    """Provenance documents that buildkit keeps beside images."""
    return entry.annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def is_nydus_entry(entry: Descriptor) -> bool:
    """Whether an index entry says that it is a Nydus image."""
    features = entry.platform.os_features if entry.platform else ()
    return entry.artifact_type == NYDUS_ARTIFACT or NYDUS_OS_FEATURE in features


def find_bootstrap_layer(manifest: Manifest) -> Descriptor | None:
    """The layer with the Nydus bootstrap (the last one that says so), if there is one."""
    for layer in reversed(manifest.layers):
        if NYDUS_BOOTSTRAP_ANNOTATION in layer.annotations:
            return layer
    return None


def find_startup_layer(manifest: Manifest) -> Descriptor | None:
    """The blob that is said to hold what the start needs, if there is one."""
    for layer in manifest.layers:
        if NYDUS_STARTUP_ANNOTATION in layer.annotations:
            return layer
    return None


def is_nydus(manifest: Manifest) -> bool:
    return find_bootstrap_layer(manifest) is not None


def parse_manifest(raw: bytes, media_type: str | None, where: str) -> Manifest | Index:
    """Parse a document of `media_type` (None or unknown: by its content); FormatError."""
    if len(raw) > MAX_MANIFEST:
        raise FormatError(f"manifest of {len(raw)} bytes, at most {MAX_MANIFEST}", where)
    document = parse_json_object(raw, "manifest", where)
    kind = _media_type(document, media_type, where)
    if kind in INDEX_TYPES:
        return _parse_index(document, kind, raw, where)
    return _parse_image(document, kind, raw, where)


def parse_json_object(raw: bytes, what: str, where: str) -> dict[str, Any]:
    """The JSON object in `raw`; FormatError for anything else, however deep or odd."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise FormatError(f"{what} is not JSON", where) from None
    if not isinstance(document, dict):
        raise FormatError(f"{what} is no JSON object", where)
    return document


def _media_type(document: dict[str, Any], announced: str | None, where: str) -> str:
    """The document's type: its own word, then the server's, then its shape."""
    own = document.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise FormatError("mediaType is no text", where)
    known = (*MANIFEST_TYPES, *INDEX_TYPES)
    announced = (announced or "").partition(";")[0].strip()
    if (own or announced).startswith(DOCKER_SCHEMA1_PREFIX) or document.get("schemaVersion") == 1:
        _refuse_schema1(where)
    if own == ARTIFACT_MANIFEST:
        kind = document.get("artifactType")
        raise FormatError(f"is an artifact of type {str(kind)[:120]!r}, no container image", where)
    if document.get("schemaVersion") != 2:
        raise FormatError("schemaVersion is not 2", where)
    if own and own not in known:
        raise FormatError(f"{own[:120]!r} is no manifest type we know", where)
    if own and announced in known and own != announced:
        raise FormatError(f"manifest says it is {own}, the sender says {announced}", where)
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document):
        raise FormatError("document is a manifest and an index at once", where)
    kind = own or (announced if announced in known else OCI_INDEX if is_index else OCI_MANIFEST)
    if is_index != (kind in INDEX_TYPES):
        raise FormatError(f"content is not what its type {kind} says", where)
    return kind


def _refuse_schema1(where: str) -> NoReturn:
    raise FormatError(
        "Docker manifest schema 1 is not supported; push the image again with a current tool", where
    )


def _parse_index(document: dict[str, Any], kind: str, raw: bytes, where: str) -> Index:
    entries = _list(document, "manifests", _MAX_MANIFESTS, where)
    return Index(
        media_type=kind,
        manifests=[descriptor_from_json(entry, where) for entry in entries],
        annotations=text_map(document.get("annotations"), "annotations", where),
        raw=raw,
        digest=digest_of(raw),
    )


def _parse_image(document: dict[str, Any], kind: str, raw: bytes, where: str) -> Manifest:
    layers = _list(document, "layers", _MAX_LAYERS, where)
    subject = document.get("subject")
    artifact_type = document.get("artifactType") or ""
    if not isinstance(artifact_type, str):
        raise FormatError("artifactType is no text", where)
    return Manifest(
        media_type=kind,
        config=descriptor_from_json(document.get("config"), f"{where}: config"),
        layers=[descriptor_from_json(x, f"{where}: layer {i}") for i, x in enumerate(layers)],
        annotations=text_map(document.get("annotations"), "annotations", where),
        subject=descriptor_from_json(subject, f"{where}: subject") if subject else None,
        artifact_type=artifact_type,
        raw=raw,
        digest=digest_of(raw),
    )


def _list(document: dict[str, Any], key: str, limit: int, where: str) -> list[Any]:
    items = document.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or len(items) > limit:
        raise FormatError(f"{key} is no list of at most {limit}", where)
    return items
