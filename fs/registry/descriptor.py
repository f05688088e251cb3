"""Descriptors: the typed, sized, digested pointers that OCI images are made of.

A Descriptor that exists has a valid digest and a size that is not negative,
whoever wrote the JSON it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fs.format.errors import FormatError
from fs.registry.digest import check_digest, digest_of
from fs.registry.platform import Platform, platform_from_json

_MAX_SIZE = 1 << 62
_MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` is in bytes, of the blob as stored (compressed, if it is)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON fields in a fixed order, without those that are empty."""
        fields: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.platform:
            fields["platform"] = self.platform.to_json()
        if self.artifact_type:
            fields["artifactType"] = self.artifact_type
        return fields


def describe(data: bytes, media_type: str) -> Descriptor:
    """The descriptor of bytes at hand."""
    return Descriptor(media_type, digest_of(data), len(data))


def descriptor_from_json(fields: object, where: str) -> Descriptor:
    """A validated descriptor; FormatError names `where` and the field at fault."""
    if not isinstance(fields, Mapping):
        raise FormatError("descriptor is no object", where)
    size = fields.get("size")
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise FormatError("descriptor has no valid size", where)
    platform = fields.get("platform")
    return Descriptor(
        media_type=_text(fields, "mediaType", where),
        digest=check_digest(fields.get("digest"), where),
        size=size,
        annotations=text_map(fields.get("annotations"), "annotations", where),
        platform=platform_from_json(platform, where) if platform else None,
        urls=_texts(fields.get("urls"), where),
        artifact_type=_text(fields, "artifactType", where, required=False),
    )


def _text(fields: Mapping[str, Any], key: str, where: str, *, required: bool = True) -> str:
    text = fields.get(key) or ""
    if not isinstance(text, str) or len(text) > _MAX_TEXT or (required and not text):
        raise FormatError(f"descriptor has no valid {key}", where)
    return text


def text_map(fields: object, name: str, where: str) -> dict[str, str]:
    """A JSON object of texts, {} for null; else FormatError."""
    if not fields:
        return {}
    if isinstance(fields, dict) and all(isinstance(value, str) for value in fields.values()):
        return fields
    raise FormatError(f"{name} is no object of texts", where)


def _texts(items: object, where: str) -> tuple[str, ...]:
    if not items:
        return ()
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return tuple(items)
    raise FormatError("urls is no list of texts", where)
